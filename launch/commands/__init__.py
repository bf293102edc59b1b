"""The command line: options and their help, and nothing else."""
