"""A local student: an ONNX graph run by ONNX Runtime, one text at a time.

Dynamically quantised graphs scale activations by the whole batch, so the same text answers differently in different
company. Run alone it always answers the same, and what a gate measured is what is served, bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.confidence import signals
from stillhouse.models.features import CENTROIDS_FILE, MODEL_FILE, TOKENIZER_FILE, Featuriser, StudentSpec, prepare
from stillhouse.models.port import ModelError

# Probabilities below this are left out of distributions (`Prediction.distribution`).
SMALLEST = 0.001


def open_session(path: Path, threads: int = 1) -> Any:
    """An ONNX Runtime CPU session with `threads` threads. Raises `ModelError` naming the file.

    Threads do not spin between calls: a waiting model leaves the core to the others.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ModelError("onnxruntime is not installed; install stillhouse[train].") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelError(f"{path}: ONNX Runtime cannot load it ({_first_line(error)}); write it anew.") from None


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities float64 of logits [..., labels], divided by `temperature` first."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float64)


def distribution_of(labels: tuple[str, ...], probabilities: NDArray[np.float64]) -> dict[str, float]:
    """Label to probability, likeliest first, without entries under 0.001. `probabilities`: [labels]."""
    kept = np.flatnonzero(probabilities >= SMALLEST)
    values = probabilities[kept]
    order = np.argsort(-values, kind="stable")
    return dict(zip([labels[i] for i in kept[order].tolist()], values[order].tolist(), strict=True))


class OnnxStudent:
    """A student as it serves and as gates judge it. Blocking; belongs in a worker process or a job."""

    def __init__(self, folder: Path) -> None:
        """Load the artefact in `folder` (verify it first: `artefact.verify`). Raises `ModelError`."""
        self.spec = StudentSpec.read(folder)
        tokenizer = folder / TOKENIZER_FILE
        self._featuriser = Featuriser(self.spec, tokenizer if tokenizer.exists() else None)
        self._session = open_session(folder / MODEL_FILE)
        width = self._session.get_outputs()[0].shape[-1]
        if isinstance(width, int) and width != len(self.spec.labels):
            raise ModelError(f"{folder}: the graph gives {width} labels, student.json has {len(self.spec.labels)}.")
        self._centroids = _centroids(folder / CENTROIDS_FILE)
        self._outputs = ["logits"] if self._centroids is None else ["logits", "pooled"]
        expected = 3 if self._centroids is None else 5
        if self.spec.confidence.kind == "learned" and len(self.spec.confidence.weights) != expected:
            raise ModelError(f"{folder}: student.json's confidence does not fit the graph; train the student anew.")

    @property
    def student_id(self) -> str:
        """The student's id."""
        return self.spec.student_id

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the logits."""
        return self.spec.labels

    def logits(self, text: str) -> NDArray[np.float32]:
        """Uncalibrated logits float32 [labels] of one text. Raises `ModelError`."""
        return self._run(text)[0]

    def signals(self, text: str) -> NDArray[np.float64]:
        """What the learned confidence looks at (`confidence.signals`). Raises `ModelError`."""
        logits, pooled, _ = self._run(text)
        return signals(logits, self.spec.temperature, pooled, self._centroids)

    def predict_text(self, text: str) -> tuple[str, float, dict[str, float]]:
        """Label, calibrated confidence in [0, 1], and distribution of one text. Raises `ModelError`."""
        return self.predict_counted(text)[:3]

    def predict_counted(self, text: str) -> tuple[str, float, dict[str, float], int]:
        """As `predict_text`, and the number of features or tokens that the text has."""
        logits, pooled, size = self._run(text)
        probabilities = softmax(logits, self.spec.temperature)
        seen = None
        if self.spec.confidence.kind == "learned":
            seen = signals(logits, self.spec.temperature, pooled, self._centroids)
        confidence = self.spec.confidence.of(probabilities, seen)
        distribution = distribution_of(self.spec.labels, probabilities)
        return self.spec.labels[int(probabilities.argmax())], confidence, distribution, size

    def _run(self, text: str) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, int]:
        inputs = self._featuriser.inputs(prepare(text))
        try:
            found = self._session.run(self._outputs, inputs)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"Student {self.student_id} failed on an input ({_first_line(error)}).") from None
        logits, pooled = (np.asarray(one[0], dtype=np.float32) for one in (found[0], found[-1]))
        return logits, pooled if len(found) > 1 else None, next(reversed(inputs.values())).shape[1]


def _centroids(path: Path) -> NDArray[np.float32] | None:
    """Centroids float32 [labels, width] of a student with an encoder; None without one. Raises `ModelError`."""
    if not path.exists():
        return None
    try:
        found: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not usable centroids ({error}); train the student anew.") from None
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
