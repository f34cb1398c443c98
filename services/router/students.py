"""The loaded students: one worker process for each artefact that a route names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from stillhouse.events import RouteChanged, StudentRoute
from stillhouse.models.port import Model, ModelError
from stillhouse.models.worker_model import WorkerModel

log = structlog.get_logger()

Make = Callable[[StudentRoute, RouteChanged], WorkerModel]


class Students:
    """Loads and unloads students as routes come and go, by sha256: what a gate judged is what serves."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._loaded: dict[str, WorkerModel] = {}

    def get(self, student: StudentRoute) -> Model | None:
        """The loaded model of `student`, or None."""
        return self._loaded.get(student.artefact.sha256)

    async def load(self, route: RouteChanged) -> None:
        """Load every student of `route`. One that cannot be loaded is logged; its calls fall back to the teacher."""
        for student in _students(route):
            if student.artefact.sha256 in self._loaded:
                continue
            model = self._make(student, route)
            try:
                await model.start()
            except ModelError as error:
                log.error("student_not_loaded", student_id=student.student_id, error=str(error))
                continue
            self._loaded[student.artefact.sha256] = model
            log.info("student_loaded", student_id=student.student_id, sha256=student.artefact.sha256[:12])

    async def keep(self, routes: Iterable[RouteChanged]) -> None:
        """Close every student that no route names any more."""
        named = {student.artefact.sha256 for route in routes for student in _students(route)}
        gone = [self._loaded.pop(sha256) for sha256 in list(self._loaded) if sha256 not in named]
        await asyncio.gather(*(model.close() for model in gone))

    async def close(self) -> None:
        """Close all."""
        await self.keep(())


def _students(route: RouteChanged) -> list[StudentRoute]:
    return [student for student in (route.live, route.candidate) if student is not None]
