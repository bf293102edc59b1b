"""`lockstep calibrate`: uncached runs of a few prompts, from which computed steps are chosen and weights are fitted."""
