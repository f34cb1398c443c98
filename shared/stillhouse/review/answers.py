"""Answers of a student that writes, as people judge them: blind, in random order, on cases drawn at random.

A gate that asks people keeps in `<home>/evaluations/<student>/` the answers that the student would serve
(`answers.jsonl`, with their texts: an erasure reaches it) and what people said of them (`people.jsonl`, by id). Which
cases people see, and which answer stands first, is a hash of the case: nothing about an answer changes its chance.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

ANSWERS_FILE: Final = "answers.jsonl"
PEOPLE_FILE: Final = "people.jsonl"
TASK_FILE: Final = "answers.task.jsonl"

About = Literal["teacher", "base", "grounding"]
QUESTIONS: Final[dict[About, str]] = {
    "teacher": "Which answer is better? a, b or tie",
    "base": "Which answer is better? a, b or tie",
    "grounding": "Does the answer state anything that was not given? yes or no",
}


@dataclass(frozen=True, slots=True)
class Answered:
    """One case: what was asked and given, and what each model said. `base` is None where it was not asked."""

    id: str
    input: str
    given: tuple[str, ...]
    student: str
    teacher: str
    base: str | None = None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a person said of a case: `student`, `other` or `tie`; about grounding, `made_up` or `grounded`."""

    id: str
    about: About
    said: str
    reviewer: str = ""
    minutes: float | None = None


def shown_to_people(case_id: str, share: float) -> bool:
    """Whether a case is one of those that people are shown."""
    digest = hashlib.sha256(f"people\0{case_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def student_is_first(case_id: str, about: str) -> bool:
    """Whether the student's answer stands first: a coin that is thrown once for each case and comparison."""
    return hashlib.sha256(f"first\0{about}\0{case_id}".encode()).digest()[0] % 2 == 0


def folder_of_student(home: Path, student_id: str) -> Path:
    """Where a student's answers are."""
    return home / "evaluations" / student_id


def read_answers(folder: Path) -> list[Answered]:
    """The answers in the order in which they came; none where there is no file."""
    return [Answered(**row | {"given": tuple(row["given"])}) for row in _rows(folder / ANSWERS_FILE)]


def write_answers(folder: Path, answers: Iterable[Answered], task_key: str) -> None:
    """Write them all anew, at once; and whose they are."""
    _write(folder / ANSWERS_FILE, [asdict(one) for one in answers])
    _write(folder / TASK_FILE, [{"task": task_key}])


def task_of(folder: Path) -> str | None:
    """The task (`<tenant>/<task>`) whose gate keeps answers in `folder`; None where none does."""
    return next((str(row["task"]) for row in _rows(folder / TASK_FILE)), None)


def with_bases(answers: Sequence[Answered], said: Mapping[str, str]) -> list[Answered]:
    """The answers with what the base model said where `said` has it."""
    return [replace(one, base=said.get(one.id, one.base)) for one in answers]


def read_opinions(folder: Path) -> dict[tuple[str, str], Opinion]:
    """By case and comparison, the last that was said."""
    return {(row["id"], row["about"]): Opinion(**row) for row in _rows(folder / PEOPLE_FILE)}


def count_opinions(folder: Path) -> int:
    """How often anything was said: rises whenever something is."""
    path = folder / PEOPLE_FILE
    return path.read_bytes().count(b"\n") if path.exists() else 0


def sheet(
    answers: Sequence[Answered],
    opinions: Collection[tuple[str, str]],
    wanted: Collection[About],
    share: float,
    most: int | None,
) -> list[dict[str, Any]]:
    """What people are still to say, a row for each: `said` is theirs to fill in. Who wrote what is not in it."""
    cases = sorted(
        (one for one in answers if shown_to_people(one.id, share)),
        key=lambda one: hashlib.sha256(f"order\0{one.id}".encode()).digest(),
    )
    rows: list[dict[str, Any]] = []
    for case in cases:
        for about in wanted:
            if (case.id, about) in opinions or (about == "base" and case.base is None):
                continue
            row: dict[str, Any] = {"id": f"{about}:{case.id}", "question": QUESTIONS[about], "said": None}
            row |= {"input": case.input, "given": list(case.given)}
            if about == "grounding":
                rows.append(row | {"answer": case.student})
                continue
            other = case.teacher if about == "teacher" else case.base
            first, second = (case.student, other) if student_is_first(case.id, about) else (other, case.student)
            rows.append(row | {"a": first, "b": second})
    return rows if most is None else rows[:most]


def opinions_in(text: str, known: Collection[str], reviewer: str) -> list[Opinion]:
    """What people filled into a sheet; rows without `said` are passed over. ValueError names the line."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            about, _, case_id = str(row["id"]).partition(":")
            said = row.get("said")
            minutes = row.get("minutes")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"line {number}: no row of a sheet; keep `id` and fill in `said`") from None
        if said is None or said == "":
            continue
        if about not in QUESTIONS or case_id not in known:
            raise ValueError(f"line {number}: no case {row['id']!r} of this student")
        if minutes is not None and not (isinstance(minutes, int | float) and 0 <= minutes <= 1440):
            raise ValueError(f"line {number}: minutes is {minutes!r}; give a number of minutes, or leave it out")
        by = str(row.get("reviewer") or reviewer)
        found.append(Opinion(case_id, about, _meant(case_id, about, said, number), by, minutes))
    return found


def add_opinions(folder: Path, opinions: Iterable[Opinion]) -> list[Opinion]:
    """Keep what is new; gives that back. The same again changes nothing."""
    before = read_opinions(folder)
    new = [
        one
        for one in opinions
        if (one.id, one.about) not in before
        or (before[one.id, one.about].said, before[one.id, one.about].reviewer) != (one.said, one.reviewer)
    ]
    if new:
        rows = _rows(folder / PEOPLE_FILE)
        _write(folder / PEOPLE_FILE, [*rows, *(asdict(one) for one in new)])
    return new


def forget_answers(home: Path, example_ids: Collection[str]) -> int:
    """Take the texts of examples out of every student's answers; gives how many there were. Safe to repeat."""
    wanted, taken = set(example_ids), 0
    for path in sorted((home / "evaluations").glob(f"*/{ANSWERS_FILE}")):
        answers = read_answers(path.parent)
        left = [one for one in answers if one.id not in wanted]
        if len(left) < len(answers):
            _write(path, [asdict(one) for one in left])
            taken += len(answers) - len(left)
    return taken


def _meant(case_id: str, about: str, said: object, number: int) -> str:
    word = str(said).strip().casefold()
    if about == "grounding":
        if word in ("yes", "no", "true", "false"):
            return "made_up" if word in ("yes", "true") else "grounded"
        raise ValueError(f"line {number}: said is {said!r}; write yes or no")
    if word == "tie":
        return "tie"
    if word in ("a", "b"):
        return "student" if (word == "a") == student_is_first(case_id, about) else "other"
    raise ValueError(f"line {number}: said is {said!r}; write a, b or tie")


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
