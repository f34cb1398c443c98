"""The teachers of a task that reranks: a local cross-encoder in a worker process, or an API in the common shape.

The API is asked `{"model", "query", "documents", "top_n"}` and answers `{"results": [{"index", "relevance_score"}]}`:
what Cohere, Jina, Voyage's imitators, vLLM and text-embeddings servers agree on.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from stillhouse.models.artefact import reference, verify
from stillhouse.models.port import ModelError, Prediction
from stillhouse.models.rerank_request import RerankRequest, answer_of, log_odds_of
from stillhouse.models.rerank_student import OnnxReranker
from stillhouse.tasks.teachers import RerankEndpoint

ATTEMPTS: Final = 3
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 20.0
CONNECT_S: Final = 10.0
MOST_BYTES: Final = 10_000_000
PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class LocalTeacher:
    """A cross-encoder's artefact as a teacher. Blocking; belongs in a worker process."""

    def __init__(self, folder: Path, usd_per_call: float) -> None:
        """Load the artefact, every byte verified. Raises `ModelError`."""
        self._model = OnnxReranker(verify(folder), redacts=False)
        self._usd = usd_per_call
        self.version = f"cross-encoder-{reference(folder).sha256[:12]}"

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """One ranking an input, in order, each with its own time. Raises `ModelError`."""
        answers = []
        for text in texts:
            wall, cpu = time.perf_counter(), time.process_time()
            output, _, distribution, tokens = self._model.predict_counted(text)
            cpu_ms, wall_ms = 1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)
            answers.append(Prediction(output, 1.0, distribution, wall_ms, cpu_ms, self._usd, tokens))
        return answers


class EndpointTeacher:
    """A reranker behind an HTTP API, behind the `Model` port.

    A refusal that may pass (429, 5xx, a broken connection) is tried again, twice at most; one that will not is not.
    How long all of it may take is the caller's.
    """

    def __init__(self, settings: RerankEndpoint) -> None:
        """Connects at the first call."""
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    @property
    def version(self) -> str:
        """The model's name."""
        return self._settings.model

    async def predict(self, batch: Sequence[str]) -> list[Prediction]:
        """One ranking an input, in order. Raises `ModelError`."""
        return list(await asyncio.gather(*(self._rank(text) for text in batch)))

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _rank(self, text: str) -> Prediction:
        try:
            asked = RerankRequest.of(text)
        except ValueError as error:
            raise ModelError(f"the teacher {self.version} was not asked: {error}") from None
        started = time.perf_counter()
        said = await self._post(asked)
        output, distribution = answer_of(_scores(said, len(asked.documents), self.version))
        return Prediction(
            output=output,
            confidence=1.0,
            distribution=distribution,
            latency_ms=1000 * (time.perf_counter() - started),
            cost_usd=self._settings.usd_per_call,
        )

    async def _post(self, asked: RerankRequest) -> Any:
        body = {
            "model": self._settings.model,
            "query": asked.query,
            "documents": list(asked.documents),
            "top_n": len(asked.documents),
        }
        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                pause = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                await asyncio.sleep(min(LONGEST_PAUSE_S, pause))
            try:
                async with self._connected().post(self._settings.url, json=body) as reply:
                    read = await reply.content.read(MOST_BYTES)
                    if reply.status == 200:
                        return json.loads(read)
                    why = f"answered with status {reply.status}"
                    if reply.status not in PASSING:
                        raise ModelError(f"the teacher {self.version} {why}")
            except ValueError:
                raise ModelError(f"the teacher {self.version} answered with no JSON") from None
            except (aiohttp.ClientError, OSError) as error:
                why = f"could not be reached ({type(error).__name__})"
        raise ModelError(f"the teacher {self.version} {why}, {ATTEMPTS} times")

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {}
            name = self._settings.api_key_env
            if name is not None:
                if not (key := os.environ.get(name)):
                    raise ModelError(f"the teacher {self.version} needs a key: set {name}")
                headers["Authorization"] = f"Bearer {key}"
            self._session = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


def _scores(said: Any, documents: int, model: str) -> list[float]:
    """Log-odds of every document. Scores within [0, 1] are taken for probabilities, others as they are."""
    try:
        found = {int(one["index"]): float(one["relevance_score"]) for one in said["results"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the teacher {model} answered with no results ({error!r})") from None
    if sorted(found) != list(range(documents)) or not all(math.isfinite(score) for score in found.values()):
        raise ModelError(f"the teacher {model} scored {len(found)} of {documents} documents")
    scores = [found[place] for place in range(documents)]
    return [log_odds_of(score) for score in scores] if all(0.0 <= score <= 1.0 for score in scores) else scores
