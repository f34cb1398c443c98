"""Reading a file of judged cases: JSONL, one case a line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.quality.responses import Case, Winner


class CaseRow(BaseModel):
    """One line. Keys that are not here are passed over: exports of other tools carry their own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str | None = Field(default=None, description="The line's number by default.")
    input: str
    student: str
    context: str | tuple[str, ...] = ()
    teacher: str | None = None
    base: str | None = None
    preference: str | None = Field(default=None, description="The judge's: student, teacher or tie.")
    human_preference: str | None = Field(default=None, description="People's: student, teacher or tie.")
    human_winner: str | None = Field(default=None, description="People's: student, base or tie.")
    student_first: bool | None = None
    hallucinated: bool | None = Field(default=None, description="What people found.")
    grounded: bool | None = Field(default=None, description="What an NLI model found: all of it follows from context.")
    teacher_again: str | None = Field(default=None, description="The teacher's answer when asked once more.")
    student_usd: float | None = None
    teacher_usd: float | None = None
    drawn: str = Field(default="random", description="Why the case was chosen; only `random` measures.")
    review_drawn: str = Field(default="random", description="Why people saw it; otherwise what they said is left out.")


@dataclass(frozen=True, slots=True)
class Read:
    """The cases of a file that measure, how many do not, and the file's sha256."""

    cases: list[Case]
    not_random: int
    sha256: str


def read_cases(path: Path) -> Read:
    """The cases of `path`, in order. ValueError with one sentence that names file and line."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    cases: list[Case] = []
    seen: set[str] = set()
    left_out = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = CaseRow.model_validate(json.loads(line))
            case = _case(row, number)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{path} line {number}: {where}: {first['msg']}") from None
        except ValueError as error:
            raise ValueError(f"{path} line {number}: {error}") from None
        if case.id in seen:
            raise ValueError(f"{path} line {number}: case {case.id!r} is there twice; count it once")
        seen.add(case.id)
        if row.drawn == "random":
            cases.append(case)
        else:
            left_out += 1
    if not cases:
        raise ValueError(f"{path} holds no case that was drawn at random")
    return Read(cases, left_out, hashlib.sha256(content).hexdigest())


def _case(row: CaseRow, number: int) -> Case:
    by_chance = row.review_drawn == "random"
    fields: dict[str, Any] = row.model_dump(
        exclude={"preference", "human_preference", "human_winner", "drawn", "review_drawn"}
    )
    context = (row.context,) if isinstance(row.context, str) else row.context
    return Case(
        **fields
        | {
            "id": row.id or str(number),
            "context": context,
            "preference": _winner(row.preference, "teacher", "preference"),
            "human_preference": _winner(row.human_preference if by_chance else None, "teacher", "human_preference"),
            "winner": _winner(row.human_winner if by_chance else None, "base", "human_winner"),
            "hallucinated": row.hallucinated if by_chance else None,
        }
    )


def _winner(said: str | None, other: str, name: str) -> Winner | None:
    if said is None:
        return None
    if said in ("student", "tie"):
        return "student" if said == "student" else "tie"
    if said == other:
        return "other"
    raise ValueError(f"{name} is {said!r}; it must be student, {other} or tie")
