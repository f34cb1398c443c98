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

FIRST: Final = 4  # cases that tell whether it answers
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
    ValueError where it gives no usable answer to any of some cases.
    """
    judge = RubricJudge(settings)
    kept, rows = _kept(folder, name, judge)
    winners: dict[str, Any] = {row["id"]: row["winner"] for row in rows if "winner" in row}
    grounded: dict[str, bool] = {row["id"]: row["grounded"] for row in rows if "grounded" in row}
    asked = [one for one in pairs if one.id not in winners]
    looked = [one for one in unchecked if one.id not in grounded]
    try:
        with kept.open("a", encoding="utf-8") as file:

            def keep(rows: Sequence[dict[str, Any]], of: int) -> None:
                file.writelines(json.dumps(row) + "\n" for row in rows)
                file.flush()
                _check(len(rows), of, settings)

            for part in _parts(asked):
                ruled = [one for one in await judge.rule(part) if one.winner is not None]
                winners |= {one.id: one.winner for one in ruled}
                keep([{"id": o.id, "winner": o.winner, "student_first": o.student_first} for o in ruled], len(part))
            for part in _parts(looked):
                found = zip(part, await asyncio.gather(*map(judge.grounded, part)), strict=True)
                said = {one.id: holds for one, holds in found if holds is not None}
                grounded |= said
                keep([{"id": case_id, "grounded": holds} for case_id, holds in said.items()], len(part))
    finally:
        await judge.close()
    return Rulings(winners, grounded, len(asked) + len(looked))


async def meet_all(
    settings: Judge, folder: Path, name: str, answers: Sequence[Question], by: str
) -> tuple[dict[str, bool], int]:
    """Whether each of `answers` meets the rubric, by id, and how many calls `by` has made for that in all.

    Kept as in `rule_all`; `by` names who asks, so that a job which was stopped still knows what it took. Answers on
    which the judge says nothing usable are not in the result. ValueError where that is so of all of some.
    """
    judge = RubricJudge(settings)
    kept, rows = _kept(folder, name, judge)
    found: dict[str, bool] = {row["id"]: row["meets"] for row in rows if row.get("meets") is not None}
    silent = {row["id"] for row in rows if row.get("by") == by and row.get("meets") is None}
    calls = sum(row.get("by") == by for row in rows)
    try:
        with kept.open("a", encoding="utf-8") as file:
            for part in _parts([one for one in answers if one.id not in found and one.id not in silent]):
                said = dict(zip((one.id for one in part), await asyncio.gather(*map(judge.meets, part)), strict=True))
                file.writelines(json.dumps({"id": of, "meets": meets, "by": by}) + "\n" for of, meets in said.items())
                file.flush()
                usable = {of: meets for of, meets in said.items() if meets is not None}
                _check(len(usable), len(part), settings)
                found |= usable
                calls += len(part)
    finally:
        await judge.close()
    return {one.id: found[one.id] for one in answers if one.id in found}, calls


def _kept(folder: Path, name: str, judge: RubricJudge) -> tuple[Path, list[dict[str, Any]]]:
    """The file of a judge's rulings, and what it holds; a last line that was cut short by a crash is passed over."""
    kept = folder / f"{name}.{judge.version}.rulings.jsonl"
    rows: list[dict[str, Any]] = []
    for line in kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return kept, rows


def _check(usable: int, asked: int, settings: Judge) -> None:
    """Where it is away, or answers something else, nobody waits for the rest."""
    if asked and not usable:
        raise ValueError(f"the judge at {settings.base_url} gave no usable answer to any of {asked} cases")


def _parts(questions: Sequence[Question]) -> list[Sequence[Question]]:
    """A few first, which tell whether it answers at all."""
    starts = range(FIRST, len(questions), AT_ONCE)
    return [part for part in (questions[:FIRST], *(questions[i : i + AT_ONCE] for i in starts)) if part]
