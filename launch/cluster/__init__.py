"""Gangs that serve the queue: each is a process of its own, which keeps a model loaded on a Ray cluster."""
