"""Students that do not write, served by vLLM's pooling runner: classifiers and cross-encoders in Hugging Face's layout.

ONNX Runtime is faster for small encoders on a CPU and stays what the trainer's own classifiers are served with. vLLM is
for those that are large, or that share a GPU with students that write: any `...ForSequenceClassification` checkpoint of
safetensors, held by a `ReplicaLease` whose `ServeSpec` has `runner = "pooling"`, or behind a URL.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiohttp

from stillhouse.models.chat.posting import MOST_OF_AN_ERROR, bounded, words_of
from stillhouse.models.chat.replies import NoCompletion
from stillhouse.models.port import ModelError, Prediction
from stillhouse.models.vllm.student import Breaker, session

LEAST: Final = 0.001  # probabilities under it are left out

BaseUrl = Callable[[], str | None]


class _Pooled:
    """Posts to one server of the pooling runner. Every failure is a `ModelError`; nothing is tried again."""

    def __init__(self, student_id: str, base_url: BaseUrl, *, concurrency: int = 16, timeout_s: float = 10.0) -> None:
        """`base_url` ends with `/v1` as a lease's does; None while the replica is not ready."""
        self._id = student_id
        self._base_url = base_url
        self._slots = asyncio.Semaphore(concurrency)
        self._breaker = Breaker()
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    @property
    def version(self) -> str:
        """The student's id."""
        return self._id

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, path: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """The `data` of the answer."""
        async with self._slots:
            url = self._base_url()
            if url is None:
                raise ModelError(f"the student {self._id} is not ready; its replica starts or has failed.")
            self._breaker.enter(self._id)
            try:
                body = json.dumps({"model": self._id, **asked}).encode()
                async with self._connected().post(
                    f"{url.removesuffix('/').removesuffix('/v1')}{path}", data=body
                ) as said:
                    if said.status != 200:
                        why = words_of(await said.content.read(MOST_OF_AN_ERROR))
                        (self._breaker.well if said.status < 500 else self._breaker.failed)()
                        raise ModelError(f"the student {self._id} refused with status {said.status}{why}")
                    rows = json.loads(await bounded(said.content))["data"]
                    found = sorted(rows, key=lambda row: int(row["index"]))
            except (NoCompletion, ValueError, KeyError, TypeError, RecursionError) as error:
                self._breaker.failed()
                raise ModelError(f"the student {self._id} answered with nothing usable ({error!r})") from None
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
                self._breaker.failed()
                raise ModelError(f"the student {self._id} could not be asked ({type(error).__name__})") from None
            except asyncio.CancelledError:
                self._breaker.left()
                raise
            self._breaker.well()
            return found

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = session(self._timeout_s)
        return self._session


class PooledClassifier(_Pooled):
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
        """As `_Pooled`, with the names of the outputs."""
        super().__init__(student_id, base_url, concurrency=concurrency, timeout_s=timeout_s)
        self._labels = tuple(labels)

    async def predict(self, batch: Sequence[str]) -> list[Prediction]:
        """One prediction per input, in order; confidence is the largest probability. Raises `ModelError`."""
        if not batch:
            return []
        started = time.perf_counter()
        rows = await self._post("/classify", {"input": list(batch)})
        each_ms = 1000 * (time.perf_counter() - started) / len(batch)
        probabilities = [[float(value) for value in row.get("probs") or ()] for row in rows]
        if len(rows) != len(batch) or any(len(one) != len(self._labels) for one in probabilities):
            shape = f"{len(rows)} × {len(probabilities[0]) if probabilities else 0}"
            raise ModelError(
                f"the student {self._id} gave {shape} probabilities where {len(batch)} × {len(self._labels)} were "
                "asked for; the server has another checkpoint than its labels."
            )
        return [self._prediction(one, each_ms) for one in probabilities]

    def _prediction(self, probabilities: list[float], latency_ms: float) -> Prediction:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        likely = {label: p for label, p in zip(self._labels, probabilities, strict=True) if p >= LEAST}
        return Prediction(self._labels[best], probabilities[best], likely, latency_ms)


class PooledReranker(_Pooled):
    """A cross-encoder with one output: how well documents answer a query."""

    async def scores(self, query: str, documents: Sequence[str]) -> list[float]:
        """A score in [0, 1] per document, in their order. Raises `ModelError`."""
        if not documents:
            return []
        rows = await self._post("/score", {"queries": query, "documents": list(documents)})
        found = [float(row.get("score", math.nan)) for row in rows]
        if len(found) != len(documents) or not all(map(math.isfinite, found)):
            raise ModelError(f"the student {self._id} gave {len(found)} scores for {len(documents)} documents.")
        return found
