"""`lockstep calibrate`: uncached runs of a few prompts, from which steps are placed and weights are fitted."""
