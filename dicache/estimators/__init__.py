"""How a skipped step is estimated: one file for each published idea."""
