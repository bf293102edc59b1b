"""Many kills of gangs that serve a queue: see ``python -m tests.soak --help``."""
