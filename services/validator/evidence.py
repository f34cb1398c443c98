"""Gathering a gate's evidence: what the student says about cases, and what is counted or measured of it besides."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from services.validator.cases import Faced, Facts, Outcome, eligible
from services.validator.examination import examine, leaked
from services.validator.measure import peak_memory
from stillhouse.events import StudentRoute, StudentTrained
from stillhouse.models.artefact import folder_of, verify
from stillhouse.models.language import language_identifier
from stillhouse.models.port import ModelError
from stillhouse.models.student import OnnxStudent
from stillhouse.quality.self_agreement import repeats, teacher_agreement
from stillhouse.store import Store
from stillhouse.tasks import Task
from stillhouse.tasks.comparators import Comparison
from stillhouse.tasks.conditions import Memory, Slice
from stillhouse.tasks.golden import read_golden


def champion_loss(fixed: dict[str, Any] | None, compare: Comparison) -> Callable[[str, str], bool] | None:
    """The live student's loss on an input with the teacher's answer; None where nothing asks for it."""
    if fixed is None:
        return None
    route = StudentRoute.model_validate(fixed)
    try:
        model = OnnxStudent(verify(route.artefact))
    except ModelError as error:
        raise LookupError(f"The live student {route.student_id} cannot be compared with: {error}") from None

    def loss(text: str, teacher: str) -> bool:
        label, confidence, _ = model.predict_text(text)
        return confidence >= route.threshold and not compare.same(label, teacher)

    return loss


def outcomes_of(
    task: Task,
    student: StudentTrained,
    model: OnnxStudent,
    store: Store,
    frozen: list[dict[str, Any]],
    known: set[str],
    compare: Comparison,
    champion: Callable[[str, str], bool] | None,
) -> tuple[list[Outcome], float]:
    """Outcomes of new gate cases in order of time, and CPU seconds of one prediction (0 without cases)."""
    learnt = {row["input_sha256"] for row in frozen} | {row["example_id"] for row in frozen}
    rows = [
        row
        for row in store.examples(task.key, since=student.dataset.cutoff).to_pylist()
        if eligible(row, student.dataset.cutoff, learnt, known)
    ][: max(0, task.gate.max_cases - len(known))]
    started = time.process_time()
    said = [model.predict_text(row["input"])[:2] for row in rows]
    cpu_each = (time.process_time() - started) / len(rows) if rows else 0.0
    language_of = _language_of(task)
    outcomes = [
        Outcome(
            row["example_id"],
            label,
            confidence,
            row["output"],
            agrees=compare.same(label, row["output"]),
            time=row["time"].isoformat(),
            group=row["group"],
            chars=len(row["input"]),
            language=language_of(row["input"]),
            champion_loss=champion(row["input"], row["output"]) if champion is not None else None,
        )
        for (label, confidence), row in zip(said, rows, strict=True)
    ]
    return outcomes, cpu_each


def _language_of(task: Task) -> Callable[[str], str | None]:
    """What names a text's language, where a condition asks for it."""
    slices = [wanted for wanted in task.gate.condition if isinstance(wanted, Slice) and wanted.by == "language"]
    if not slices:
        return lambda text: None
    known = {code for wanted in slices for code in wanted.languages}
    try:
        return language_identifier(sorted(known) if all(wanted.languages for wanted in slices) else ())
    except ValueError as error:
        raise LookupError(f"{task.key}: gate.condition.languages: {error}; use ISO 639-1 codes.") from None


def facts_of(
    task: Task,
    student: StudentTrained,
    model: OnnxStudent,
    recorded: list[dict[str, Any]],
    frozen: list[dict[str, Any]],
    threshold: float,
    alpha: float,
    compare: Comparison,
) -> Facts:
    """What is measured once or counted in full; nothing that the task does not ask for."""
    memory = None
    if any(isinstance(one, Memory) for one in task.gate.condition):
        memory = peak_memory(folder_of(student.artefact), [row["input"] for row in recorded[-100:]])
    faced: tuple[Faced, ...] = ()
    learnt = 0
    if task.gate.golden is not None:
        golden = read_golden(task.gate.golden, task.labels)
        faced = examine(task, golden, lambda text: model.predict_text(text)[:2], threshold)
        ids = {row["example_id"] for row in frozen}
        texts = (row["input"] for row in recorded if row["example_id"] in ids)
        learnt = leaked(golden, texts, {row["input_sha256"] for row in frozen})
    asked = (
        (f"{row['teacher_version']}\n{row['input']}", row["output"])
        for row in recorded
        if row["provenance"] == "teacher"
    )
    teacher = teacher_agreement(repeats(asked), compare.same, 1.0 - task.gate.epsilon, alpha)
    return Facts(student.artefact.size, memory, faced, learnt, teacher)


def golden_version(task: Task) -> str | None:
    """sha256 of the task's golden file; None where it has none."""
    return hashlib.sha256(task.gate.golden.read_bytes()).hexdigest() if task.gate.golden is not None else None
