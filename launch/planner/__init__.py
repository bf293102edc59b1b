"""`lockstep plan`: predicts what a cluster makes of a configuration, before there is one."""
