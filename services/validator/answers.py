"""What a gate knows of answers in free words: the student's beside teacher's and base's, a judge's word, people's.

Only answers that the student would serve are looked at, and people see a random part of them. All that must survive a
crash is in the student's folder before a case counts as judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from services.validator.judged import Row, Writer
from stillhouse.distill.causal_lm.base import base_folder
from stillhouse.environments.environment import root
from stillhouse.events import Condition
from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.confidence import Confidence
from stillhouse.quality.responses import Case, judge_answers
from stillhouse.review.answers import (
    Answered,
    count_opinions,
    folder_of_student,
    read_answers,
    read_opinions,
    shown_to_people,
    student_is_first,
    with_bases,
    write_answers,
)
from stillhouse.tasks import Task
from stillhouse.tasks.comparators import Comparison
from stillhouse.tasks.comparators.judge import Question
from stillhouse.tasks.comparators.rulings import rule_all
from stillhouse.tasks.responses import Hallucination, Prices, ResponseGate

BASE: Final = "base"  # the folder that the base model is served from, in the student's


@dataclass(frozen=True, slots=True)
class Opinions:
    """The conditions that a judge and people decide. `left`: what people were not asked yet; `told`: what they said.

    `usd` is what the judge took now, `beside_s` the CPU seconds of the base model's replica.
    """

    conditions: tuple[Condition, ...] = ()
    left: int = 0
    told: int = 0
    usd: float = 0.0
    beside_s: float = 0.0


def keep(
    task: Task, student_id: str, home: Path, rows: Sequence[Row], said: Sequence[tuple[str, float]], threshold: float
) -> None:
    """Add the answers to `rows` that would be served at `threshold`; those that are there stay as they are."""
    folder = folder_of_student(home, student_id)
    kept = read_answers(folder)
    known = {one.id for one in kept}
    fresh = [
        _answered(row, output)
        for row, (output, confidence) in zip(rows, said, strict=True)
        if confidence >= threshold and row["example_id"] not in known
    ]
    write_answers(folder, [*kept, *fresh], task.key)


def opinions_of(
    task: Task, student_id: str, artefact: Path, gate: Path, home: Path, alpha: float, compare: Comparison
) -> Opinions:
    """Judge what is kept of the student. Raises `ModelError` for a base that cannot be served, `LookupError`."""
    folder, wanted = folder_of_student(home, student_id), task.gate.about_answers
    answers, questions = read_answers(folder), task.gate.questions
    beside = 0.0
    if "base" in questions:
        answers, beside = _ask_base(task, student_id, artefact, home, answers)
    winners: dict[str, Any] = {}
    grounded: dict[str, bool] = {}
    usd = 0.0
    if task.gate.judge is not None:
        by_judge = any(isinstance(one, Hallucination) and one.check == "judge" for one in wanted)
        pairs = [Question(one.id, one.input, one.student, one.teacher, one.given) for one in answers]
        unchecked = [Question(one.id, one.input, one.student, "", one.given) for one in answers]
        try:
            said = asyncio.run(
                rule_all(
                    task.gate.judge,
                    gate,
                    "answers",
                    pairs if "teacher" in questions else [],
                    unchecked if by_judge else [],
                )
            )
        except ValueError as error:
            raise RuntimeError(f"{error}; the gate is tried again") from None
        winners, grounded, usd = said.winners, said.grounded, said.calls * task.gate.judge.usd_per_call
    people = read_opinions(folder)
    cases = []
    for one in answers:
        about = {name: people[one.id, name].said for name in questions if (one.id, name) in people}
        cases.append(
            Case(
                one.id,
                one.input,
                one.student,
                context=one.given,
                teacher=one.teacher,
                base=one.base,
                preference=winners.get(one.id),
                human_preference=about.get("teacher"),  # type: ignore[arg-type]
                winner=about.get("base"),  # type: ignore[arg-type]
                student_first=student_is_first(one.id, "base") if "base" in about else None,
                hallucinated=about["grounding"] == "made_up" if "grounding" in about else None,
                grounded=grounded.get(one.id),
            )
        )
    prices = Prices(human_usd_per_minute=task.review.usd_per_hour / 60, minutes_per_review=task.review.minutes_per_case)
    found = judge_answers(
        cases, ResponseGate(alpha=alpha, condition=wanted, prices=prices, judge=task.gate.judge), compare.same
    )
    shown = [one for one in answers if shown_to_people(one.id, task.gate.people_share)]
    left = sum((one.id, name) not in people for one in shown for name in questions)
    note = f"of {len(answers)} answers that would be served"
    conditions = tuple(one.model_copy(update={"note": f"{note}; {one.note}"}) for one in found)
    return Opinions(conditions, left, count_opinions(folder), usd, beside)


def base_artefact(artefact: Path, folder: Path) -> Path:
    """A folder that serves the base model of `artefact` under the same schema and lengths. Raises `ModelError`."""
    spec = CausalLmSpec.read(artefact)
    base = base_folder(spec.base, root().parent / "bases").resolve()
    target = folder / BASE
    target.mkdir(parents=True, exist_ok=True)
    for path in base.iterdir():
        if path.is_file() and not (target / path.name).exists():
            (target / path.name).symlink_to(path)
    alone = replace(spec, student_id=f"{spec.student_id[:100]}-{BASE}", examples=(), confidence=Confidence())
    replace(alone, quantization="none", cpu_s_per_token=0.0).write(target)
    return target


def _ask_base(
    task: Task, student_id: str, artefact: Path, home: Path, answers: list[Answered]
) -> tuple[list[Answered], float]:
    """The answers with those of the base model, of cases that people see; and its replica's CPU seconds."""
    folder = folder_of_student(home, student_id)
    open_ = [one for one in answers if one.base is None and shown_to_people(one.id, task.gate.people_share)]
    if not open_:
        return answers, 0.0
    model = Writer(base_artefact(artefact, folder), home)
    said, _ = model.answer([{"input": one.input, "input_type": "text"} for one in open_])
    answers = with_bases(answers, {one.id: output for one, (output, _) in zip(open_, said, strict=True)})
    write_answers(folder, answers, task.key)
    return answers, model.beside_s


def _answered(row: Row, output: str) -> Answered:
    """What was given is every text of the request: what an answer may rest on."""
    request = ChatRequest.of(row.get("input_type") or "text", row["input"])
    given = tuple(message.text for message in request.messages if message.text)
    return Answered(str(row["example_id"]), request.question or given[-1], given, output, str(row["output"]))
