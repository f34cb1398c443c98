"""A local model in a process of its own, so that computing never holds up the event loop."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from stillhouse.models.adjudicator import adjudicator_of
from stillhouse.models.port import ModelError, Prediction
from stillhouse.models.teacher import EnsembleTeacher, fit_teacher
from stillhouse.tasks import Task

R = TypeVar("R")

_teacher: EnsembleTeacher | None = None  # of the worker process


class TeacherWorker:
    """A task's teacher behind the `Model` port. A killed worker fails its calls; the next call starts a new one."""

    def __init__(self, task: Task, home: Path) -> None:
        self._task = task
        self._home = home
        self._pool = self._new_pool()
        self._adjudicator = adjudicator_of(task)
        self.version = ""

    async def start(self) -> None:
        """Fit the teacher if need be, load it and warm it up. Raises `ModelError`."""
        self.version = await self._call(_version)

    async def predict(self, batch: Sequence[str]) -> list[Prediction]:
        """See `Model.predict`. Ambiguous predictions are settled by the task's adjudicator, where it has one."""
        predictions = await self._call(_predict, list(batch))
        adjudicator = self._adjudicator
        if adjudicator is None:
            return predictions
        return list(
            await asyncio.gather(
                *[
                    adjudicator.settle(text, prediction) if adjudicator.ambiguous(prediction) else _same(prediction)
                    for text, prediction in zip(batch, predictions, strict=True)
                ]
            )
        )

    @property
    def pids(self) -> list[int]:
        """Of the worker's processes."""
        return list(self._pool._processes or {})

    async def close(self) -> None:
        """End the worker process when its current call ends, and the adjudicator's connections."""
        if self._adjudicator is not None:
            await self._adjudicator.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    async def _call(self, function: Callable[..., R], *arguments: object) -> R:
        pool = self._pool
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, self._task, self._home, *arguments)
        except BrokenProcessPool:
            if self._pool is pool:  # the first of the failed calls replaces it for all
                self._pool = self._new_pool()
            raise ModelError("The teacher's process died during the call; it is started again.") from None


async def _same(prediction: Prediction) -> Prediction:
    return prediction


def _loaded(task: Task, home: Path) -> EnsembleTeacher:
    global _teacher
    if _teacher is None:
        _teacher = EnsembleTeacher(task, fit_teacher(task, home))
        _teacher.predict(["warm up"])
    return _teacher


def _version(task: Task, home: Path) -> str:
    return _loaded(task, home).version


def _predict(task: Task, home: Path, texts: list[str]) -> list[Prediction]:
    teacher = _loaded(task, home)
    wall, cpu = time.perf_counter(), time.process_time()
    predictions = teacher.predict(texts)
    wall_ms = (time.perf_counter() - wall) * 1000 / len(texts)
    cpu_ms = (time.process_time() - cpu) * 1000 / len(texts)
    return [replace(prediction, latency_ms=wall_ms, cpu_ms=cpu_ms) for prediction in predictions]
