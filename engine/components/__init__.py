"""The parts of a checkpoint, with weights: one set for each family of models."""
