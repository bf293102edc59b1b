"""`lockstep bench`: how fast a configuration makes videos on these ranks, with its cache and without."""
