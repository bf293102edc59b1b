"""LoRA adapters: what a file holds, which layers it changes, by how much, and the addition to the weights."""
