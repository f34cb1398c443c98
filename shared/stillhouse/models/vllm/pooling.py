"""Students that do not write, served by vLLM's pooling runner: classifiers and cross-encoders in Hugging Face's layout.

ONNX Runtime is faster for small encoders on a CPU and stays what the trainer's own classifiers are served with. vLLM is
for those that are large, or that share a GPU with students that write: any `...ForSequenceClassification` checkpoint of
safetensors, held by a `ReplicaLease` whose `ServeSpec` has `runner = "pooling"`, or behind a URL.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from stillhouse.models.chat.replies import NoCompletion
from stillhouse.models.port import ModelError, Prediction
from stillhouse.models.vllm.posting import BaseUrl, Posting

LEAST: Final = 0.001  # probabilities under it are left out

T = TypeVar("T")


class PooledClassifier:
    """A classifier: a `Model`. `labels` are those of its outputs, in their order."""

    def __init__(
        self,
        student_id: str,
        base_url: BaseUrl,
        labels: Sequence[str],
        *,
        concurrency: int = 16,
        timeout_s: float = 10.0,
    ) -> None:
        """`base_url` ends with `/v1` as a lease's does; None while the replica is not ready."""
        self._id = student_id
        self._labels = tuple(labels)
        self._server = Posting(student_id, base_url, concurrency=concurrency, timeout_s=timeout_s)

    @property
    def version(self) -> str:
        """The student's id."""
        return self._id

    async def predict(self, batch: Sequence[str]) -> list[Prediction]:
        """One prediction per input, in order; confidence is the largest probability. Raises `ModelError`."""
        if not batch:
            return []
        started = time.perf_counter()
        asked = {"model": self._id, "input": list(batch)}
        probabilities = await self._server.post("/classify", asked, _probabilities, beside_v1=True)
        each_ms = 1000 * (time.perf_counter() - started) / len(batch)
        if len(probabilities) != len(batch) or any(len(one) != len(self._labels) for one in probabilities):
            shape = f"{len(probabilities)} × {len(probabilities[0]) if probabilities else 0}"
            raise ModelError(
                f"the student {self._id} gave {shape} probabilities where {len(batch)} × {len(self._labels)} were "
                "asked for; the server has another checkpoint than its labels."
            )
        return [self._prediction(one, each_ms) for one in probabilities]

    def _prediction(self, probabilities: list[float], latency_ms: float) -> Prediction:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        likely = {label: p for label, p in zip(self._labels, probabilities, strict=True) if p >= LEAST}
        return Prediction(self._labels[best], probabilities[best], likely, latency_ms)

    async def close(self) -> None:
        """Close its connections."""
        await self._server.close()


class PooledReranker:
    """A cross-encoder with one output: how well documents answer a query."""

    def __init__(self, student_id: str, base_url: BaseUrl, *, concurrency: int = 16, timeout_s: float = 10.0) -> None:
        """`base_url` ends with `/v1` as a lease's does; None while the replica is not ready."""
        self._id = student_id
        self._server = Posting(student_id, base_url, concurrency=concurrency, timeout_s=timeout_s)

    async def scores(self, query: str, documents: Sequence[str]) -> list[float]:
        """A score in [0, 1] per document, in their order. Raises `ModelError`."""
        if not documents:
            return []
        asked = {"model": self._id, "queries": query, "documents": list(documents)}
        found = await self._server.post("/score", asked, _scores, beside_v1=True)
        if len(found) != len(documents) or not all(map(math.isfinite, found)):
            raise ModelError(f"the student {self._id} gave {len(found)} scores for {len(documents)} documents.")
        return found

    async def close(self) -> None:
        """Close its connections."""
        await self._server.close()


def _probabilities(body: bytes) -> list[list[float]]:
    return _read(body, lambda row: [float(value) for value in row["probs"]])


def _scores(body: bytes) -> list[float]:
    return _read(body, lambda row: float(row["score"]))


def _read(body: bytes, of_row: Callable[[dict[str, Any]], T]) -> list[T]:
    """What an answer's rows hold, in the order of the questions. Raises `NoCompletion`."""
    try:
        return [of_row(row) for row in sorted(json.loads(body)["data"], key=lambda row: int(row["index"]))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoCompletion(repr(error)) from None
