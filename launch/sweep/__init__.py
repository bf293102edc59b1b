"""The harness for cache methods: the same prompts, seeds and layout for every method, against the uncached run."""
