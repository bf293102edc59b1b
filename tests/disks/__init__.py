"""Disks that fill up, go away or get slow during a run: see ``python -m tests.disks --help``."""
