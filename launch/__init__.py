"""Ways to start the engine: local ranks, torchrun, Ray, and a queue of jobs."""
