"""When a step is skipped: one file for each published idea."""
