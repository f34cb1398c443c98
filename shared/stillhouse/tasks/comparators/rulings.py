"""What a judge said about many cases, kept by id so that nobody pays twice for the same ruling. No text is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stillhouse.tasks.comparators.judge import Question, RubricJudge
from stillhouse.tasks.responses import Judge

AT_ONCE: Final = 64  # cases between two writings


@dataclass(frozen=True, slots=True)
class Rulings:
    """By case id: who won (`student`, `other`, `tie`), and whether the answer has ground. `calls` were made now."""

    winners: dict[str, Any]
    grounded: dict[str, bool]
    calls: int


async def rule_all(
    settings: Judge, folder: Path, name: str, pairs: Sequence[Question], unchecked: Sequence[Question]
) -> Rulings:
    """Which of two answers wins in each of `pairs`, and whether the answer of each of `unchecked` has ground.

    Rulings are kept in `folder` under `name` and the judge's version; cases that it has ruled on are not asked again.
    ValueError where it gave no usable answer to anything that it was asked.
    """
    judge = RubricJudge(settings)
    kept = folder / f"{name}.{judge.version}.rulings.jsonl"
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    winners: dict[str, Any] = {row["id"]: row["winner"] for row in rows if "winner" in row}
    grounded: dict[str, bool] = {row["id"]: row["grounded"] for row in rows if "grounded" in row}
    asked = [one for one in pairs if one.id not in winners]
    looked = [one for one in unchecked if one.id not in grounded]
    said = 0
    try:
        with kept.open("a", encoding="utf-8") as file:
            for start in range(0, len(asked), AT_ONCE):
                for ruling in await judge.rule(asked[start : start + AT_ONCE]):
                    if ruling.winner is not None:
                        winners[ruling.id] = ruling.winner
                        row = {"id": ruling.id, "winner": ruling.winner, "student_first": ruling.student_first}
                        file.write(json.dumps(row) + "\n")
                        said += 1
                file.flush()
            for start in range(0, len(looked), AT_ONCE):
                part = looked[start : start + AT_ONCE]
                for one, holds in zip(part, await asyncio.gather(*map(judge.grounded, part)), strict=True):
                    if holds is not None:
                        grounded[one.id] = holds
                        file.write(json.dumps({"id": one.id, "grounded": holds}) + "\n")
                        said += 1
                file.flush()
    finally:
        await judge.close()
    calls = len(asked) + len(looked)
    if calls and not said:
        raise ValueError(f"the judge at {settings.base_url} gave no usable answer to any of {calls} cases")
    return Rulings(winners, grounded, calls)
