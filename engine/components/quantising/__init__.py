"""Transformers with weights of fewer bits: quantised by torchao as they are loaded, or published in float8 or GGUF."""
