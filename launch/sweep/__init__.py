"""`lockstep sweep`: cache methods compared on the same prompts, seeds and layout, against the uncached run."""
