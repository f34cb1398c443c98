"""The loaded students: a worker process for each classifier that a route names, a replica of vLLM for each writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from stillhouse.events import RouteChanged, StudentRoute
from stillhouse.models.chat.completion import ChatModel
from stillhouse.models.port import Model, ModelError
from stillhouse.models.vllm.served import DRAIN_S, ServedStudent
from stillhouse.models.worker_model import WorkerModel

log = structlog.get_logger()

Make = Callable[[StudentRoute, RouteChanged], WorkerModel | ServedStudent]


class Students:
    """Loads and unloads students as routes come and go, by sha256: what a gate judged is what serves."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._loaded: dict[str, WorkerModel | ServedStudent] = {}
        self._draining: set[asyncio.Task[None]] = set()

    def get(self, student: StudentRoute) -> Model | ChatModel | None:
        """The loaded model of `student`, or None."""
        return self._loaded.get(student.artefact.sha256)

    def starting(self, student: StudentRoute) -> bool:
        """Whether it is a writer whose replica does not answer yet, or not any more: it is started by itself."""
        model = self._loaded.get(student.artefact.sha256)
        return isinstance(model, ServedStudent) and model.base_url() is None

    async def load(self, route: RouteChanged) -> None:
        """Load every student of `route`. One that cannot be loaded is logged; its calls fall back to the teacher.

        A replica of vLLM is not waited for: it takes a minute, in which the teacher answers.
        """
        for student in _students(route):
            if student.artefact.sha256 in self._loaded:
                continue
            try:
                model = await asyncio.to_thread(self._make, student, route)
                await model.start()
            except ModelError as error:
                log.error("student_not_loaded", student_id=student.student_id, error=str(error))
                continue
            self._loaded[student.artefact.sha256] = model
            log.info("student_loaded", student_id=student.student_id, sha256=student.artefact.sha256[:12])

    async def keep(self, routes: Iterable[RouteChanged]) -> None:
        """Close every student that no route names any more; a writer ends its answers first, and is not waited for."""
        named = {student.artefact.sha256 for route in routes for student in _students(route)}
        gone = [self._loaded.pop(sha256) for sha256 in list(self._loaded) if sha256 not in named]
        for model in gone:
            if isinstance(model, ServedStudent):
                draining = asyncio.create_task(model.close(DRAIN_S))
                self._draining.add(draining)
                draining.add_done_callback(self._draining.discard)
        await asyncio.gather(*(model.close() for model in gone if isinstance(model, WorkerModel)))

    async def close(self) -> None:
        """Close all. What they were asked has its answers by now, or its askers are gone."""
        await self.keep(())
        await asyncio.gather(*self._draining)


def _students(route: RouteChanged) -> list[StudentRoute]:
    return [student for student in (route.live, route.candidate) if student is not None]
