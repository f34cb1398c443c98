"""The stage tests on real traffic: folds audits of shadow and canary students, and says their verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from services.validator.gates import Gates
from services.validator.stage_states import StageStates
from services.validator.stages import (
    Canary,
    Shadow,
    canary_step,
    canary_verdict,
    shadow_conditions,
    shadow_step,
    shadow_wanted,
)
from services.validator.verdicts import Verdicts
from stillhouse.events import GatePassed, InferenceAudited, RouteChanged, StudentTrained
from stillhouse.store import Store
from stillhouse.tasks import Task

log = structlog.get_logger()


class Watching:
    """Takes audits in batches; a verdict is published before its test is marked as announced."""

    def __init__(
        self, tasks: Mapping[str, Task], store: Store, states: StageStates, gates: Gates, verdicts: Verdicts
    ) -> None:
        self._tasks = tasks
        self._store = store
        self._states = states
        self._gates = gates
        self._verdicts = verdicts
        self._over: set[tuple[str, str, str]] = set()  # tests with an announced verdict
        self._candidates: dict[str, str] = {}  # task key -> student

    async def audited(self, audits: Sequence[InferenceAudited]) -> None:
        """Fold a batch of audits, in order, each into the test that it belongs to."""
        by_test: dict[tuple[str, str, str], list[InferenceAudited]] = {}
        for audit in audits:
            name: tuple[str, str, str] = (audit.task_key, audit.student_id, audit.stage)
            if audit.stage != "live" and audit.task_key in self._tasks and name not in self._over:
                by_test.setdefault(name, []).append(audit)
        for name, of_test in by_test.items():
            gated = await self._verdicts.gated(name[1])
            if gated is None or gated.student is None:
                log.warning("audit_of_ungated_student", student_id=name[1], stage=name[2], audits=len(of_test))
                continue
            task = self._tasks[name[0]]
            if name[2] == "shadow":
                await self._shadow(task, gated, gated.student, name, of_test)
            else:
                await self._canary(task, gated, gated.student, name, of_test)

    async def _shadow(
        self,
        task: Task,
        gated: GatePassed,
        student: StudentTrained,
        name: tuple[str, str, str],
        audits: Sequence[InferenceAudited],
    ) -> None:
        sha256, wanted = student.artefact.sha256, shadow_wanted(task.gate)

        def step(state: Shadow, audit: InferenceAudited) -> Shadow:
            return shadow_step(state, audit, sha256, wanted)

        async def rebuild() -> tuple[Shadow, Sequence[str]]:
            # Latency is not in the store: a lost shadow test counts from the next requests on.
            return Shadow(), ()

        state = await self._states.add(Shadow, name, audits, step, rebuild)
        if not state.announced:
            conditions = shadow_conditions(state, task.gate, sha256, gated.alpha)
            verdicts = {condition.verdict for condition in conditions}
            if "failed" in verdicts:
                await self._verdicts.shadow(task, student, conditions)
            elif "undecided" in verdicts:
                return
            else:
                await self._gates.open_replay(student, list(state.request_ids), conditions)
            await self._states.announced(Shadow, name)
        self._over.add(name)

    async def _canary(
        self,
        task: Task,
        gated: GatePassed,
        student: StudentTrained,
        name: tuple[str, str, str],
        audits: Sequence[InferenceAudited],
    ) -> None:
        def step(state: Canary, audit: InferenceAudited) -> Canary:
            return canary_step(state, audit.loss, audit.would_serve, selective=task.cascade.selective)

        async def rebuild() -> tuple[Canary, Sequence[str]]:
            state, seen = Canary.start(task.gate, gated.alpha), []
            table = await asyncio.to_thread(self._store.audits, task.key, student.student_id)
            for row in table.sort_by("time").to_pylist():
                if row["stage"] == "canary":
                    lost = row["would_serve"] and not row["agrees"]
                    state = canary_step(state, lost, row["would_serve"], selective=task.cascade.selective)
                    seen.append(row["audit_id"])
            return state, seen

        state = await self._states.add(Canary, name, audits, step, rebuild)
        if not state.announced:
            verdict = canary_verdict(state, task.gate)
            if verdict.verdict == "undecided" and not verdict.final:
                return
            await self._verdicts.stage(task, student, "canary", verdict)
            await self._states.announced(Canary, name)
        self._over.add(name)

    async def routed(self, route: RouteChanged) -> None:
        """Forget the tests of students that are no candidates any more."""
        candidate = route.candidate.student_id if route.candidate else None
        before = self._candidates.pop(route.task_key, None)
        if candidate is not None:
            self._candidates[route.task_key] = candidate
        retired = set(route.retired) | ({before} if before else set())
        live = route.live.student_id if route.live else None
        gone = {student_id for student_id in retired if student_id not in (candidate, live)}
        for student_id in gone | ({live} if live else set()):
            await self._states.retire(route.task_key, student_id)
            # Late audits of a finished stage must not open its test again.
            self._over |= {(route.task_key, student_id, "shadow"), (route.task_key, student_id, "canary")}
        await self._gates.abandon(gone)
