"""A request becomes a video, on one rank or on many."""
