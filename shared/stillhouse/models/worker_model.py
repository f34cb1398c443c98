"""A local model in a worker process of its own, behind the `Model` port: computing never holds up the event loop.

While the worker computes, calls gather and go to it together. A worker that dies fails the calls it was working on and
is started again; calls that had not reached it wait for the new one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from stillhouse.events.students import ArtefactRef
from stillhouse.models.adjudicator import Adjudicator, adjudicator_of
from stillhouse.models.encoder import FitProgress, OnProgress
from stillhouse.models.frames import HEADER, pack, unpack
from stillhouse.models.port import ModelError, Prediction
from stillhouse.models.teacher import is_fitted, teacher_folder
from stillhouse.tasks.declaration import Task
from stillhouse.tasks.teachers import CrossEncoder

MAX_BATCH = 32
BACKOFF_S = (0.1, 10.0)  # first and longest wait before a worker is started again
STEADY_S = 10.0  # a worker that lived so long starts again after the first wait
GRACE_S = 2.0  # for a worker to end by itself

log = structlog.get_logger(__name__)


class WorkerModel:
    """A teacher or a student in a worker process. Made by `teacher` or `student`; `start` it, `close` it."""

    def __init__(
        self,
        what: str,
        prepare: Callable[[], Any],
        *,
        hidden: frozenset[str] = frozenset(),
        adjudicator: Callable[[], Adjudicator | None] = lambda: None,
    ) -> None:
        """`prepare` gives an awaitable of the job frame; `hidden` names environment variables kept from the worker."""
        self._what = what
        self._prepare = prepare
        self._hidden = hidden
        self._make_adjudicator = adjudicator
        self._adjudicator: Adjudicator | None = None
        self._waiting: deque[_Item] = deque()
        self._work = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._runner: asyncio.Task[None] | None = None
        self._version = ""
        self._down: ModelError | None = None
        self._numbers = 0

    @classmethod
    def teacher(cls, task: Task, home: Path, on_progress: OnProgress | None = None) -> WorkerModel:
        """The task's ensemble teacher. `start` fits it where that was not done yet, in a process that ends after it."""
        settings, home = task.ensemble.adjudicator, home.absolute()
        hidden = frozenset([settings.api_key_env] if settings else [])

        async def prepare() -> dict[str, Any]:
            folder = await asyncio.to_thread(teacher_folder, task, home)
            job = {"task": task.model_dump_json()}
            if not is_fitted(folder):
                await _fit({"job": "fit", "home": str(home), **job}, hidden, on_progress)
            return {"job": "teacher", "folder": str(folder), **job}

        return cls(f"teacher of {task.key}", prepare, hidden=hidden, adjudicator=lambda: adjudicator_of(task))

    @classmethod
    def reranker(cls, task: Task) -> WorkerModel:
        """The task's local cross-encoder, every byte of it verified at `start`. TypeError where it has none."""
        settings = task.teacher
        if not isinstance(settings, CrossEncoder):
            raise TypeError(f"the teacher of {task.key} is of kind {settings.kind}")
        folder, usd = str(settings.folder), settings.usd_per_call

        async def prepare() -> dict[str, Any]:
            return {"job": "reranker", "folder": folder, "usd_per_call": usd}

        return cls(f"teacher of {task.key}", prepare)

    @classmethod
    def student(cls, ref: ArtefactRef, student_id: str, usd_per_cpu_hour: float) -> WorkerModel:
        """A student's artefact, every byte of it verified at `start`. Calls cost their measured CPU time."""

        async def prepare() -> dict[str, Any]:
            facts = {"artefact": ref.model_dump(), "student_id": student_id, "usd_per_cpu_hour": usd_per_cpu_hour}
            return {"job": "student", **facts}

        return cls(f"student {student_id}", prepare)

    @property
    def version(self) -> str:
        """Teacher version or student id; empty before `start`."""
        return self._version

    @property
    def pid(self) -> int | None:
        """Of the worker process, where one runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Load and warm up. Raises `ModelError` where that fails, after which nothing runs."""
        if self._runner is not None:
            return
        self._adjudicator = self._make_adjudicator()
        try:
            process = await self._launch()
        except BaseException:
            await self.close()
            raise
        self._runner = asyncio.create_task(self._run(process), name=self._what)

    async def predict(self, batch: Sequence[str]) -> list[Prediction]:
        """One prediction per input, in order; deadlines are the caller's (`asyncio.timeout`). Raises `ModelError`."""
        if not batch:
            return []
        if self._runner is None or self._runner.done():
            raise ModelError(f"The {self._what} is not running; start it first.")
        if self._down is not None:
            raise ModelError(str(self._down))
        call = _Call(len(batch))
        self._waiting.extend(_Item(call, place, text) for place, text in enumerate(batch))
        self._work.set()
        predictions = await call.done
        return await self._settle(batch, predictions) if self._adjudicator else predictions

    async def close(self) -> None:
        """End the worker: it finishes the batch it is at, for 2 s at most. Waiting calls fail with `ModelError`."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
        self._fail_waiting(ModelError(f"The {self._what} was closed."))
        if self._process is not None:
            await _end(self._process)
            self._process = None
        if self._adjudicator is not None:
            await self._adjudicator.close()
            self._adjudicator = None

    async def _settle(self, batch: Sequence[str], predictions: list[Prediction]) -> list[Prediction]:
        adjudicator = self._adjudicator
        if adjudicator is None:
            return predictions
        unsure = [place for place, prediction in enumerate(predictions) if adjudicator.ambiguous(prediction)]
        settled = await asyncio.gather(*(adjudicator.settle(batch[place], predictions[place]) for place in unsure))
        for place, prediction in zip(unsure, settled, strict=True):
            predictions[place] = prediction
        return predictions

    async def _run(self, process: asyncio.subprocess.Process) -> None:
        """Serve with one worker after the other."""
        wait = BACKOFF_S[0]
        while True:
            since = time.monotonic()
            await self._serve(process)
            await _end(process)
            if time.monotonic() - since > STEADY_S:
                wait = BACKOFF_S[0]
            log.warning("worker died, starting it again", model=self._what, status=process.returncode, wait_s=wait)
            while True:
                await asyncio.sleep(wait)
                wait = min(wait * 2, BACKOFF_S[1])
                try:
                    process = await self._launch()
                except (ModelError, OSError) as error:
                    # Calls fail at once from here until a worker is up again: their owner has other answers to give.
                    self._down = ModelError(f"The {self._what} is down: {error}")
                    self._fail_waiting(self._down)
                    log.error("worker cannot be started", model=self._what, error=str(error))
                else:
                    self._down = None
                    break

    async def _launch(self) -> asyncio.subprocess.Process:
        job = await self._prepare()
        process = await _spawn(self._hidden)
        self._process = process
        try:
            await _send(process, job)
            message = await _receive(process)
        except (OSError, asyncio.IncompleteReadError):
            await _end(process)
            raise ModelError(f"The worker of the {self._what} died while loading; see its log.") from None
        except BaseException:
            await _end(process)
            raise
        if "error" in message:
            await _end(process)
            raise ModelError(message["error"])
        self._version = message["ready"]
        return process

    async def _serve(self, process: asyncio.subprocess.Process) -> None:
        """Send batches until the process dies, one at a time."""
        died = asyncio.create_task(process.wait())
        try:
            while not died.done():
                if not self._waiting:
                    self._work.clear()
                    await _either(self._work.wait(), died)
                    continue
                items = self._next_batch()
                if items and not await self._exchange(process, items):
                    return
        finally:
            died.cancel()

    def _next_batch(self) -> list[_Item]:
        items: list[_Item] = []
        while self._waiting and len(items) < MAX_BATCH:
            item = self._waiting.popleft()
            if not item.call.done.done():  # else its caller gave up, or another part of it failed
                items.append(item)
        return items

    async def _exchange(self, process: asyncio.subprocess.Process, items: list[_Item]) -> bool:
        """Have one batch answered; False where the worker died of it."""
        self._numbers += 1
        try:
            await _send(process, [self._numbers, [item.text for item in items]])
            number, answers = await _receive(process)
        except (OSError, asyncio.IncompleteReadError):
            _fail(items, ModelError(f"The worker of the {self._what} died during the call; it is started again."))
            return False
        except BaseException:
            _fail(items, ModelError(f"The {self._what} was closed."))
            raise
        assert number == self._numbers  # one batch at a time, so an answer is to the last one
        if isinstance(answers, str):
            _fail(items, ModelError(answers))
            return True
        for item, answer in zip(items, answers, strict=True):
            item.call.answer(item.place, answer)
        return True

    def _fail_waiting(self, error: ModelError) -> None:
        items = list(self._waiting)
        self._waiting.clear()
        _fail(items, error)


class _Call:
    """One call of `predict`: done when all of its texts are answered."""

    __slots__ = ("_answers", "_left", "done")

    def __init__(self, size: int) -> None:
        self.done: asyncio.Future[list[Prediction]] = asyncio.get_running_loop().create_future()
        self._answers: list[Prediction | None] = [None] * size
        self._left = size

    def answer(self, place: int, fields: list[Any]) -> None:
        output, confidence, distribution, latency_ms, cpu_ms, cost_usd, tokens, policy = fields
        self._answers[place] = Prediction(
            output, confidence, distribution, latency_ms, cpu_ms, cost_usd, input_tokens=tokens, policy=policy
        )
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result([answer for answer in self._answers if answer is not None])


class _Item:
    """One text of a call, and its place there."""

    __slots__ = ("call", "place", "text")

    def __init__(self, call: _Call, place: int, text: str) -> None:
        self.call, self.place, self.text = call, place, text


def _fail(items: Sequence[_Item], error: ModelError) -> None:
    for item in items:
        if not item.call.done.done():
            item.call.done.set_exception(error)


async def _spawn(hidden: frozenset[str]) -> asyncio.subprocess.Process:
    """Start a worker process; it inherits the three standard streams and no other descriptor."""
    # One thread per model: on few cores, threads of several models only get into each other's way.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment: Mapping[str, str] = {k: v for k, v in os.environ.items() if k not in hidden} | threads
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stillhouse.models.worker_main",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )


async def _send(process: asyncio.subprocess.Process, message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(pack(message))
    await process.stdin.drain()


async def _receive(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    (length,) = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
    return unpack(await process.stdout.readexactly(length))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close the worker's input, which ends it; kill it where it does not end in time."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _fit(job: dict[str, Any], hidden: frozenset[str], on_progress: OnProgress | None) -> None:
    """Fit a teacher in a process that ends afterwards and takes torch's memory with it. Raises `ModelError`."""
    process = await _spawn(hidden)
    try:
        await _send(process, job)
        while "done" not in (message := await _receive(process)):
            if "error" in message:
                raise ModelError(message["error"])
            if on_progress:
                on_progress(FitProgress(*message["progress"]))
    except (OSError, asyncio.IncompleteReadError):
        raise ModelError("The process that fits the teacher died; free some memory and start again.") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _either(first: Any, died: asyncio.Task[int]) -> None:
    waiting = asyncio.ensure_future(first)
    try:
        await asyncio.wait({waiting, died}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
