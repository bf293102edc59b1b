"""The old spelling `python -m launch.resume`, accepted for one release."""
