"""Gathering a gate's evidence: what the student says about cases, and what is counted or measured of it besides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.validator.cases import Faced, Facts, Outcome, eligible
from services.validator.examination import examine, leaked
from services.validator.judged import Judged, Row, judged
from stillhouse.events import StudentRoute, StudentTrained
from stillhouse.models.artefact import folder_of, verify
from stillhouse.models.language import language_identifier
from stillhouse.models.port import ModelError
from stillhouse.quality.self_agreement import repeats, teacher_agreement
from stillhouse.store import Store
from stillhouse.tasks import Task
from stillhouse.tasks.comparators import Comparison
from stillhouse.tasks.conditions import Forgetting, Memory, Slice
from stillhouse.tasks.golden import read_golden

if TYPE_CHECKING:
    from stillhouse.distill.causal_lm.forgetting import Forgotten


@dataclass(frozen=True, slots=True)
class Fresh:
    """New cases: outcomes, CPU seconds of one prediction (0 without cases), and what was asked and answered."""

    outcomes: list[Outcome]
    cpu_each: float
    rows: list[dict[str, Any]]
    said: list[tuple[str, float]]


def champion_loss(
    fixed: dict[str, Any] | None, compare: Comparison, home: Path
) -> Callable[[Sequence[Row]], list[bool]] | None:
    """The live student's losses on cases with the teacher's answers; None where nothing asks for them."""
    if fixed is None:
        return None
    route = StudentRoute.model_validate(fixed)
    try:
        model = judged(route.architecture, verify(route.artefact), home)
    except ModelError as error:
        raise LookupError(f"The live student {route.student_id} cannot be compared with: {error}") from None

    def losses(rows: Sequence[Row]) -> list[bool]:
        said, _ = model.answer(rows)
        return [
            confidence >= route.threshold and not compare.same(output, row["output"])
            for row, (output, confidence) in zip(rows, said, strict=True)
        ]

    return losses


def outcomes_of(
    task: Task,
    student: StudentTrained,
    model: Judged,
    store: Store,
    frozen: list[dict[str, Any]],
    known: set[str],
    compare: Comparison,
    champion: Callable[[Sequence[Row]], list[bool]] | None,
) -> Fresh:
    """New gate cases in order of time."""
    learnt = {row["input_sha256"] for row in frozen} | {row["example_id"] for row in frozen}
    rows = [
        row
        for row in store.examples(task.key, since=student.dataset.cutoff).to_pylist()
        if eligible(row, student.dataset.cutoff, learnt, known)
    ][: max(0, task.gate.max_cases - len(known))]
    said, cpu = model.answer(rows)
    losses = champion(rows) if champion is not None else [None] * len(rows)
    language_of = _language_of(task)
    # What was written is kept where an erasure finds it, if at all: a gate's evidence holds labels, no texts.
    texts = task.kind == "generate"
    outcomes = [
        Outcome(
            row["example_id"],
            "" if texts else label,
            confidence,
            "" if texts else row["output"],
            agrees=compare.same(label, row["output"]),
            time=row["time"].isoformat(),
            group=row["group"],
            chars=len(row["input"]),
            language=language_of(row["input"]),
            champion_loss=lost,
        )
        for (label, confidence), row, lost in zip(said, rows, losses, strict=True)
    ]
    return Fresh(outcomes, cpu / len(rows) if rows else 0.0, rows, said)


def _language_of(task: Task) -> Callable[[str], str | None]:
    """What names a text's language, where a condition asks for it."""
    slices = [wanted for wanted in task.gate.conditions if isinstance(wanted, Slice) and wanted.by == "language"]
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
    model: Judged,
    recorded: list[dict[str, Any]],
    frozen: list[dict[str, Any]],
    threshold: float,
    alpha: float,
    compare: Comparison,
) -> Facts:
    """What is measured once or counted in full; nothing that the task does not ask for."""
    memory = None
    if any(isinstance(one, Memory) for one in task.gate.conditions):
        memory = model.memory_bytes([row["input"] for row in recorded[-100:]])
    forgetting = None
    if (wanted := next((one for one in task.gate.conditions if isinstance(one, Forgetting)), None)) is not None:
        forgetting = forgotten_by(folder_of(student.artefact), wanted)
    faced: tuple[Faced, ...] = ()
    learnt = 0
    if task.gate.golden is not None:
        golden = read_golden(task.gate.golden, task.labels)
        said, _ = model.answer([{"input": case.input} for case in golden])
        faced = examine(task, golden, said, threshold, compare.same)
        ids = {row["example_id"] for row in frozen}
        texts = (row["input"] for row in recorded if row["example_id"] in ids)
        learnt = leaked(golden, texts, {row["input_sha256"] for row in frozen})
    asked = (
        (f"{row['teacher_version']}\n{row['input']}", row["output"])
        for row in recorded
        if row["provenance"] == "teacher"
    )
    teacher = teacher_agreement(repeats(asked), compare.same, 1.0 - task.gate.epsilon, alpha)
    return Facts(student.artefact.size, memory, faced, learnt, teacher, forgetting=forgetting)


def forgotten_by(artefact: Path, wanted: Forgetting) -> Forgotten:
    """What the student in `artefact` has forgotten of its base model. Raises `ModelError`."""
    from stillhouse.distill.causal_lm.base import base_folder
    from stillhouse.distill.causal_lm.forgetting import forgotten, read_probes
    from stillhouse.environments.environment import root
    from stillhouse.models.causal_lm import CausalLmSpec

    base = base_folder(CausalLmSpec.read(artefact).base, root().parent / "bases")
    try:
        probes = read_probes(wanted.probes)
    except ValueError as error:
        raise LookupError(f"The probes of what may be forgotten cannot be used: {error}.") from None
    return forgotten(base, artefact, probes)


def golden_version(task: Task) -> str | None:
    """sha256 of the task's golden file; None where it has none."""
    return hashlib.sha256(task.gate.golden.read_bytes()).hexdigest() if task.gate.golden is not None else None
