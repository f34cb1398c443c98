"""Answers that a rubric turns away do not teach: choose, ask a judge about what was chosen, choose anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from services.trainer.dataset import Chosen
from stillhouse.bus.jobs import write_json
from stillhouse.tasks import Task
from stillhouse.tasks.comparators.judge import Question
from stillhouse.tasks.comparators.rulings import meet_all

RUBRIC_FILE: Final = "rubric.json"  # what asking has cost the job so far
RULINGS: Final = "rulings"  # folder of the home
FAILED, SILENT = "do not meet the rubric", "on which the judge says nothing"

Choose = Callable[[Sequence[dict[str, Any]]], list[Chosen]]


def choose_by_rubric(
    task: Task, rows: list[dict[str, Any]], choose: Choose, home: Path, folder: Path
) -> tuple[list[Chosen], list[dict[str, Any]], dict[str, int], float]:
    """What `choose` takes of `rows` that meets the rubric; the rows that may, what was left out by reason, and USD.

    `folder` is the job's, and its name is who asks.

    Only answers that would teach are asked about, each once in the life of a rubric; people's labels and rules are not
    the judge's business. What it does not rule on is left out too. Raises `DataError` as `choose` does, and ValueError
    where the judge gives no usable answer.
    """
    judge = task.data.judge
    removed, usd = {FAILED: 0, SILENT: 0}, 0.0
    if judge is None:
        return choose(rows), rows, {}, usd
    (home / RULINGS).mkdir(parents=True, exist_ok=True)
    name = task.key.replace("/", ".")
    meets: dict[str, bool] = {}
    while True:
        chosen = choose(rows)
        by_id = {row["example_id"]: row for row in rows}
        asked = [
            Question(one.example_id, by_id[one.example_id]["input"], by_id[one.example_id]["output"], "")
            for one in chosen
            if by_id[one.example_id]["provenance"] == "teacher" and one.example_id not in meets
        ]
        if not asked:
            return chosen, rows, removed, usd
        said, calls = asyncio.run(meet_all(judge, home / RULINGS, name, asked, folder.name))
        usd = calls * judge.usd_per_call
        write_json(folder / RUBRIC_FILE, {"calls": calls, "usd": usd})
        turned_away = {one.id for one in asked if not said.get(one.id, False)}
        removed[FAILED] += sum(said.get(one.id) is False for one in asked)
        removed[SILENT] += sum(one.id not in said for one in asked)
        meets |= said
        rows = [row for row in rows if row["example_id"] not in turned_away]
