"""HunyuanVideo 1.0."""
