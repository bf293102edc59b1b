"""The old spelling `python -m launch.generate`, accepted for one release."""
