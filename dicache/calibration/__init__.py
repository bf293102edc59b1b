"""What is measured on uncached runs of a model, and the lists of steps that are placed by it."""
