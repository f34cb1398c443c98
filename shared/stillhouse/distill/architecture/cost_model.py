"""Latency of an encoder from its shape, by a cost for each kind of operation fitted to graphs measured on this machine.

    ms = sum over kinds of (calls * a + flops * b + values * c)

with coefficients that are not negative, by least squares of relative errors. That latency follows the hardware and not
the number of operations is why it is measured (Cai et al. 1812.00332, section 3.3; Wang et al. 2005.14187).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.distill.architecture.counting import EncoderShape, work
from stillhouse.distill.architecture.encoder_graph import latency_ms, write
from stillhouse.models.port import ModelError

Measured = tuple[EncoderShape, int, float]  # shape, length, milliseconds

# Shapes that differ in one size at a time; of a small vocabulary, since a lookup costs the same in any.
CALIBRATION: Final = (
    EncoderShape(1, 384, 1536, 12, vocabulary=1000, labels=64),
    EncoderShape(3, 384, 1536, 12, vocabulary=1000, labels=64),
    EncoderShape(2, 192, 768, 6, vocabulary=1000, labels=64),
    EncoderShape(2, 384, 512, 12, vocabulary=1000, labels=64),
    EncoderShape(2, 384, 1536, 4, vocabulary=1000, labels=64, attention=128),
    EncoderShape(1, 768, 3072, 12, vocabulary=1000, labels=64),
)
LENGTHS: Final = (8, 32, 96)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Milliseconds for each unit of `features`, float64 [kinds], and the mean relative error on what it was fitted to.

    `error` in [0, 1] is of shapes left out in turn, so it says how well a shape that was not measured is predicted.
    """

    coefficients: NDArray[np.float64]
    error: float

    def predict(self, shape: EncoderShape, length: int) -> float:
        """Milliseconds of one text of `length` tokens."""
        return float(features(shape, length) @ self.coefficients)


def features(shape: EncoderShape, length: int) -> NDArray[np.float64]:
    """Work of one text by kind, float64 [5]: calls, and operations in millions of linears and of attention's products,
    values in millions that small operations write, and one for what every text costs.
    """
    parts = {part.kind: part for part in work(shape, length)}
    linear = sum(parts[kind].flops for kind in ("attention_linear", "mlp_linear", "head"))
    small = sum(parts[kind].values for kind in ("gather", "softmax", "activation", "norm"))
    calls = sum(part.calls for part in parts.values())
    return np.array([1.0, calls, linear / 1e6, parts["attention_product"].flops / 1e6, small / 1e6])


def fit(measured: Sequence[Measured]) -> CostModel:
    """Fit the costs. Raises `ModelError` where fewer shapes than kinds were measured, or a time is not positive."""
    from scipy.optimize import nnls

    if len(measured) < 6 or min((ms for _, _, ms in measured), default=0.0) <= 0.0:
        raise ModelError(f"{len(measured)} measured latencies; a cost model needs 6 or more, all above 0 ms.")
    rows = np.stack([features(shape, length) / ms for shape, length, ms in measured])
    wanted = np.ones(len(measured))
    shapes = list(dict.fromkeys(shape for shape, _, _ in measured))
    errors: list[float] = []
    for left_out in shapes:
        kept = np.array([shape != left_out for shape, _, _ in measured])
        if kept.sum() >= 6:
            found, _ = nnls(rows[kept], wanted[kept])
            errors += np.abs(rows[~kept] @ found - 1.0).tolist()
    coefficients, residual = nnls(rows, wanted)
    error = float(np.mean(errors)) if errors else float(residual / np.sqrt(len(measured)))
    return CostModel(np.asarray(coefficients, dtype=np.float64), error)


def measure(shape: EncoderShape, lengths: Sequence[int], *, repeats: int = 30) -> list[Measured]:
    """Build the graph of `shape` and time it in ONNX Runtime at each of `lengths`."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        write(shape, path)
        return [(shape, length, latency_ms(path, length, repeats=repeats)) for length in lengths]


def calibrated(on_shape: Callable[[int, int], None] | None = None, *, repeats: int = 30) -> CostModel:
    """The cost model of this machine; `on_shape` hears how many of the shapes are measured. Takes some seconds."""
    measured: list[Measured] = []
    for done, shape in enumerate(CALIBRATION, start=1):
        measured += measure(shape, LENGTHS, repeats=repeats)
        if on_shape:
            on_shape(done, len(CALIBRATION))
    return fit(measured)
