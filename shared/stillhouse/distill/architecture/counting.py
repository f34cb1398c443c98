"""Parameters, operations and activations of a transformer encoder from its shape alone, in closed form.

An operation is one multiplication or one addition; a multiply-add counts as two. These are the counts of Kaplan et al.
2001.08361, section 2.1, with biases and norms, for post-norm encoders as BERT's (Devlin et al. 1810.04805).
"""

from __future__ import annotations

from dataclasses import dataclass

from stillhouse.models.port import ModelError


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """`layers` of `width` with `heads` and an inner width `ffn`; embeddings of `vocabulary` words and `positions`.

    `attention` is the width of all heads together (0: `width`); `labels` of a linear head on the pooled states.
    """

    layers: int
    width: int
    ffn: int
    heads: int
    vocabulary: int = 30_522
    positions: int = 512
    labels: int = 2
    attention: int = 0

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.ffn, self.heads, self.vocabulary, self.positions, self.labels) < 1:
            raise ModelError(f"{self}: every size of an encoder is at least 1.")
        if self.inner % self.heads:
            raise ModelError(f"A width of {self.inner} cannot be shared by {self.heads} heads; choose a divisor.")

    @property
    def inner(self) -> int:
        """Width of all attention heads together."""
        return self.attention or self.width


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of operation of a forward pass: how often it runs, its operations, and the values that it writes."""

    kind: str
    calls: int
    flops: int
    values: int


def embedding_parameters(shape: EncoderShape) -> int:
    """Words, positions, two segments, and a norm."""
    return (shape.vocabulary + shape.positions + 2) * shape.width + 2 * shape.width


def attention_parameters(shape: EncoderShape) -> int:
    """Of one layer: query, key, value and output with biases, and a norm; 4 d^2 + 4 d + 2 d where no head is cut."""
    return 4 * shape.width * shape.inner + 3 * shape.inner + shape.width + 2 * shape.width


def mlp_parameters(shape: EncoderShape) -> int:
    """Of one layer: two matrices with biases, and a norm: 2 d f + f + d + 2 d."""
    return 2 * shape.width * shape.ffn + shape.ffn + shape.width + 2 * shape.width


def parameters(shape: EncoderShape) -> int:
    """All weights, the linear head included; no pooler.

    BERT-base without its pooler has 108,891,648:

    >>> parameters(EncoderShape(12, 768, 3072, 12, labels=2)) - (2 * 768 + 2)
    108891648
    """
    layer = attention_parameters(shape) + mlp_parameters(shape)
    return embedding_parameters(shape) + shape.layers * layer + (shape.width + 1) * shape.labels


def work(shape: EncoderShape, length: int, batch: int = 1) -> list[Work]:
    """The operations of one forward pass of `batch` texts of `length` tokens, by kind.

    Matrix products of n rows are 2 n k m operations; scores and mixtures of attention 2 n^2 d each.
    """
    if length < 1 or batch < 1:
        raise ModelError(f"A batch of {batch} texts of {length} tokens cannot be counted; both are at least 1.")
    n, layers, width, inner = batch * length, shape.layers, shape.width, shape.inner
    return [
        Work("gather", 3, 2 * n * width, n * width),
        Work("attention_linear", 4 * layers, layers * 8 * n * width * inner, layers * n * (3 * inner + width)),
        Work(
            "attention_product",
            2 * layers,
            layers * 4 * n * length * inner,
            layers * n * (length * shape.heads + inner),
        ),
        Work("softmax", layers, layers * 5 * n * length * shape.heads, layers * n * length * shape.heads),
        Work("mlp_linear", 2 * layers, layers * 4 * n * width * shape.ffn, layers * n * (shape.ffn + width)),
        Work("activation", layers, layers * 8 * n * shape.ffn, layers * n * shape.ffn),
        Work("norm", 2 * layers + 1, (2 * layers + 1) * 8 * n * width, (2 * layers + 1) * n * width),
        Work("head", 1, 2 * batch * width * shape.labels, batch * shape.labels),
    ]


def matrix_flops(shape: EncoderShape, length: int, batch: int = 1) -> int:
    """Operations in matrix products alone, which is what torch's FlopCounterMode counts."""
    kinds = ("attention_linear", "attention_product", "mlp_linear", "head")
    return sum(part.flops for part in work(shape, length, batch) if part.kind in kinds)


def activation_bytes(shape: EncoderShape, length: int, batch: int = 1, bytes_each: int = 4) -> int:
    """Bytes that all operations of one forward pass write; training keeps at most these."""
    return bytes_each * sum(part.values for part in work(shape, length, batch))


def weight_bytes(shape: EncoderShape, matrix_bits: int = 8, table_bits: int = 8) -> int:
    """Bytes of the weights, biases and norms in 32 bits; int8 has one 32-bit scale a row or column.

    >>> weight_bytes(EncoderShape(1, 8, 16, 2, vocabulary=10, positions=4, labels=3), 32, 32)
    3084
    """
    rows = shape.vocabulary
    matrices = shape.layers * (4 * shape.width * shape.inner + 2 * shape.width * shape.ffn) + shape.width * shape.labels
    columns = shape.layers * (3 * shape.inner + 2 * shape.width + shape.ffn) + shape.labels
    table = rows * shape.width
    rest = parameters(shape) - matrices - table
    scales = (4 * rows if table_bits < 32 else 0) + (4 * columns if matrix_bits < 32 else 0)
    return matrices * matrix_bits // 8 + table * table_bits // 8 + 4 * rest + scales
