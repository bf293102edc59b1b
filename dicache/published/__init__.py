"""Numbers that the authors of methods have published for single models."""
