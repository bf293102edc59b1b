"""One request on one rank, stage by stage: encode, denoise, decode, write, report."""
