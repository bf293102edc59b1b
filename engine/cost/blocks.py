"""Parameters of one block of a transformer, by its sizes; of diffusers' classes, counted with biases and norms."""

from __future__ import annotations

from engine.cost.shape import TransformerShape


def largest_block(shape: TransformerShape) -> int:
    """Parameters of the largest block. HunyuanVideo's blocks with two streams are larger than its others."""
    return _of_wan(shape) if shape.kind == "wan" else _of_two_streams(shape)


def largest_matrix(shape: TransformerShape) -> int:
    """Numbers of the largest matrix that is multiplied with all tokens: of feed-forward, or of the linear layer at the
    end of HunyuanVideo's blocks with one stream."""
    joined = shape.dim * (shape.dim + shape.ffn_dim) if shape.single_blocks else 0
    return max(shape.dim * shape.ffn_dim, joined)


def widest_input(shape: TransformerShape) -> int:
    """Numbers of a token where it enters the matrix with the most inputs."""
    return shape.dim + shape.ffn_dim if shape.single_blocks else shape.ffn_dim


def all_blocks(shape: TransformerShape) -> int:
    """Parameters of all blocks together."""
    return shape.blocks * largest_block(shape) + shape.single_blocks * _of_one_stream(shape)


def _of_wan(shape: TransformerShape) -> int:
    dim = shape.heads * shape.head_dim
    attention = 4 * _linear(dim, dim) + 2 * dim  # with norms of queries and keys over all heads
    image = 2 * _linear(dim, dim) + dim if shape.image_dim else 0
    feed_forward = _linear(dim, shape.ffn_dim) + _linear(shape.ffn_dim, dim)
    return 2 * attention + image + feed_forward + 2 * dim + 6 * dim  # a norm with weights, and the table of shifts


def _of_two_streams(shape: TransformerShape) -> int:
    dim = shape.heads * shape.head_dim
    attention = 4 * _linear(dim, dim) + 2 * shape.head_dim
    feed_forward = _linear(dim, shape.ffn_dim) + _linear(shape.ffn_dim, dim)
    return 2 * (attention + feed_forward + _linear(dim, 6 * dim))


def _of_one_stream(shape: TransformerShape) -> int:
    dim = shape.heads * shape.head_dim
    entering = 3 * _linear(dim, dim) + _linear(dim, shape.ffn_dim) + 2 * shape.head_dim
    return entering + _linear(dim + shape.ffn_dim, dim) + _linear(dim, 3 * dim)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs
