"""What a request costs by arithmetic alone: FLOPs, bytes of collectives and memory, without a weight."""
