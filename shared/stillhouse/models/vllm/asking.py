"""Asking a student that writes about many cases at once: for gates and for training, which wait for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.served import SEQUENCES, ServedStudent

OnProgress = Callable[[str, float], object]

GONE_S: Final = 300.0  # a replica that died is waited for so long; then the cases that are left have no answer


@dataclass(frozen=True, slots=True)
class Written:
    """One answer; `error` says why there is none, and then confidence is 0: it would go to the teacher."""

    output: str
    confidence: float
    log_probs: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers in the order of the cases, with the replica's CPU seconds and the wall seconds for all of them.

    `spent_cpu_s` is what the replica took for us altogether, its start included where it was started for this;
    `memory_bytes` the peak of its processes.
    """

    answers: list[Written]
    cpu_seconds: float
    seconds: float
    spent_cpu_s: float = 0.0
    memory_bytes: int = 0


def ask_all(
    folder: Path,
    home: Path,
    requests: Sequence[ChatRequest],
    on_progress: OnProgress | None = None,
    *,
    url: str | None = None,
) -> Asked:
    """Serve the artefact in `folder` and ask it everything. Blocking. Raises `ModelError` where it cannot be served."""
    return asyncio.run(_ask_all(folder, home, requests, on_progress or (lambda phase, share: None), url))


async def _ask_all(
    folder: Path,
    home: Path,
    requests: Sequence[ChatRequest],
    on_progress: OnProgress,
    url: str | None,
) -> Asked:
    student = ServedStudent(folder, home, url=url, timeout_s=GONE_S)
    try:
        on_progress("serving", 0.0)
        await student.start()
        joined = student.cpu_seconds()
        await student.ready()
        before, started = student.cpu_seconds(), time.monotonic()
        answers = await answers_of(student, requests, lambda share: on_progress("asking", share))
        after = student.cpu_seconds()
        seconds, peak = time.monotonic() - started, student.memory_bytes()
        return Asked(answers, after - before, seconds, after - joined, peak)
    finally:
        await student.close()


async def answers_of(
    student: ServedStudent, requests: Sequence[ChatRequest], on_share: Callable[[float], object] = lambda share: None
) -> list[Written]:
    """The answers of a student that is ready, in order; as many at once as its replica writes."""
    done = 0
    slots = asyncio.Semaphore(SEQUENCES)

    async def ask(request: ChatRequest) -> Written:
        nonlocal done
        async with slots:
            written = await _answer(student, request)
        done += 1
        on_share(done / len(requests))
        return written

    return list(await asyncio.gather(*(ask(request) for request in requests)))


async def _answer(student: ServedStudent, request: ChatRequest) -> Written:
    try:
        said = await student.complete(request)
    except ModelError as error:
        if student.base_url() is not None:
            return Written("", 0.0, error=str(error))
        await student.ready(GONE_S)  # it died and is started again: that says nothing about the case
        try:
            said = await student.complete(request)
        except ModelError as again:
            return Written("", 0.0, error=str(again))
    assert said.confidence is not None
    tokens = said.input_tokens + said.output_tokens
    return Written(said.as_output(), said.confidence, said.log_probs, said.margins, tokens)
