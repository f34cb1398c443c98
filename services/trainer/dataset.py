"""Freezing what a student learns from: which recorded examples, and which of them only choose.

The newest share of texts (`select`) stops training, calibrates and chooses the threshold; everything older trains.
Splits are by time (and by group where the task has groups), because that is how the student will meet its future.
The frozen file holds references and no text: what must be erasable stays in the store.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.events import DatasetRef
from stillhouse.quality.grounding import Catalogue, ungrounded
from stillhouse.quality.near_duplicates import NearDuplicates, distinct
from stillhouse.tasks import Data

SELECT_SHARE: Final = 0.15
FEWEST_TEXTS: Final = 50
FEWEST_SELECT: Final = 100
RANK: Final = {"teacher": 0, "policy": 1, "human": 2}  # whose label of a text wins

Split = Literal["train", "select"]
COLUMNS: Final = ("example_id", "time", "input_sha256", "output", "provenance", "sample", "group")


class DataError(Exception):
    """The recorded examples cannot train a student; the message says why."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One text of the dataset: its newest example, and how often the text was recorded (`weight`).

    `review_id` names the verdict of a person that its label comes from; None: the teacher's label.
    """

    example_id: str
    input_sha256: str
    split: Split
    weight: int
    sample: str
    time: datetime
    review_id: str | None = None


def teachable(rows: Sequence[dict[str, Any]], suspects: Collection[str], teacher_version: str) -> list[dict[str, Any]]:
    """Which reviewed examples (see `Store.reviewed_examples`) may teach.

    Not those that a person flagged. And where people often correct a label of the teacher of `teacher_version`, its
    answers with that label are not copied: only those teach that a person looked at.
    """
    return [
        row
        for row in rows
        if row["verdict"] != "flag"
        and (
            row["verdict"] is not None
            or row["teacher_version"] != teacher_version
            or row["teacher_output"] not in suspects
        )
    ]


def grounded(rows: Sequence[dict[str, Any]], catalogue: Catalogue | None) -> list[dict[str, Any]]:
    """Answers (see `Store.reviewed_examples`) that state nothing that their request did not give.

    What a person approved or wrote stays, whatever the rules say of it.
    """
    return [
        row for row in rows if row["provenance"] == "human" or not ungrounded(row["output"], [row["input"]], catalogue)
    ]


def within_quotas(rows: Sequence[dict[str, Any]], data: Data) -> list[dict[str, Any]]:
    """The examples of the newest texts of each provenance, as many as `data` allows. A text is of its best provenance.

    Rules teach nothing where it allows none of theirs.
    """
    rows = [row for row in rows if data.policy > 0 or row["provenance"] != "policy"]
    best = _newest(rows)
    allowed = {"teacher": data.teacher, "human": data.human, "policy": data.policy}
    kept: set[str] = set()
    for provenance, most in allowed.items():
        of = [row["input_sha256"] for row in sorted(best.values(), key=_order) if row["provenance"] == provenance]
        kept.update(of if most is None else of[len(of) - min(most, len(of)) :])
    return [row for row in rows if row["input_sha256"] in kept]


def without_repeats(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The examples (with their `input`) of one text of each set of texts that are the same but for a few letters.

    A person's comes before a rule's, a rule's before the teacher's, and a newer one before an older one.
    """
    best = sorted(_newest(rows).values(), key=lambda row: (RANK[row["provenance"]], _order(row)), reverse=True)
    kept = {best[place]["input_sha256"] for place in distinct([row["input"] for row in best])}
    return [row for row in rows if row["input_sha256"] in kept]


def choose(
    rows: Sequence[dict[str, Any]],
    *,
    largest: int,
    since: datetime | None,
    replay_share: float = 0.3,
    by_group: bool = False,
    rules_teach: bool = False,
) -> list[Chosen]:
    """Which examples make the dataset, oldest first.

    `rows` hold `COLUMNS`. Policy answers are left out unless `rules_teach`; of examples with one normalised text the
    newest stands for all, a person's before others.
    At most `largest` texts are used: the newest, of which up to `replay_share` are from before `since` (the last
    drift), so that the student still knows what came before. Raises `DataError` for fewer than 50 texts or 2 answers.
    """
    kept = [row for row in rows if rules_teach or row["provenance"] != "policy"]
    weights = Counter(row["input_sha256"] for row in kept)
    texts = _mix(sorted(_newest(kept).values(), key=_order), largest, since, replay_share)
    if len(texts) < FEWEST_TEXTS:
        raise DataError(f"Only {len(texts)} distinct texts are recorded; {FEWEST_TEXTS} are needed to train.")
    if len({row["output"] for row in texts}) < 2:
        raise DataError("All recorded answers are the same; a student needs at least two different ones.")
    select = _select(texts, by_group, since)
    return [
        Chosen(
            row["example_id"],
            row["input_sha256"],
            "select" if row["example_id"] in select else "train",
            weights[row["input_sha256"]],
            row["sample"],
            row["time"],
            row.get("review_id") if row["provenance"] == "human" else None,
        )
        for row in texts
    ]


def without_golden(rows: list[dict[str, Any]], golden: Sequence[str]) -> list[dict[str, Any]]:
    """`rows` (with their `input`) but for those that repeat, or nearly repeat, a text of the golden set."""
    if not golden:
        return rows
    known = NearDuplicates(golden)
    return [row for row in rows if known.find(row["input"]) is None]


def freeze(chosen: Sequence[Chosen], folder: Path, cutoff: datetime) -> DatasetRef:
    """Write `folder/<version>.parquet` (columns as `Chosen`) and give its reference.

    `version` is the sha256 of the example ids with their splits and people's verdicts, so the same data is the same
    file. Raises `OSError`.
    """
    content = "\n".join(
        f"{item.example_id}\t{item.split}" + (f"\t{item.review_id}" if item.review_id else "") for item in chosen
    )
    version = hashlib.sha256(content.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{version}.parquet"
    table = pa.table(
        {
            "example_id": [item.example_id for item in chosen],
            "input_sha256": [item.input_sha256 for item in chosen],
            "split": [item.split for item in chosen],
            "weight": pa.array([item.weight for item in chosen], pa.int32()),
            "sample": [item.sample for item in chosen],
            "time": pa.array([item.time for item in chosen], pa.timestamp("us", tz="UTC")),
            "review_id": pa.array([item.review_id for item in chosen], pa.string()),
        }
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        pq.write_table(table, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    counts = Counter(item.split for item in chosen)
    return DatasetRef(
        version=version,
        uri=path.resolve().as_uri(),
        n_train=counts["train"],
        n_select=counts["select"],
        cutoff=cutoff,
    )


def _newest(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The example that stands for each text, by its hash."""
    return {row["input_sha256"]: row for row in sorted(rows, key=lambda row: (RANK[row["provenance"]], _order(row)))}


def _order(row: dict[str, Any]) -> tuple[datetime, str]:
    return row["time"], row["example_id"]


def replay_weight(times: Sequence[datetime], since: datetime | None, share: float) -> float:
    """How much each text from before `since` counts beside a newer one, so that all of them make `share` at most.

    Measured over four changes (two of commit_type_stream, two of CLINC150 with 4 of 10 domains coming late; 1,500 new
    texts, two seeds): 0.748 mean agreement with weights at 0.3, 0.741 with all texts alike, 0.732 with old texts left
    out down to 0.3, 0.655 with new texts alone; 0.705 with all alike and the newest 15 % of everything choosing.
    """
    old = sum(time <= since for time in times) if since is not None else 0
    return 1.0 if old == 0 else min(1.0, share / (1 - share) * (len(times) - old) / old)


def _mix(texts: list[dict[str, Any]], largest: int, since: datetime | None, share: float) -> list[dict[str, Any]]:
    if len(texts) <= largest or since is None:
        return texts[-largest:]
    old = [row for row in texts if row["time"] <= since]
    new = [row for row in texts if row["time"] > since]
    replayed = min(len(old), max(largest - len(new), round(share * largest)))
    # By hash, not by age: replay must cover everything that was ever asked, and be the same when repeated.
    old = sorted(sorted(old, key=lambda row: row["input_sha256"])[:replayed], key=_order)
    return old + new[-(largest - replayed) :]


def _select(texts: list[dict[str, Any]], by_group: bool, since: datetime | None) -> set[str]:
    """Example ids of the newest 15 %: whole groups where the task has them, never one on both sides.

    After a drift it is 15 % of what came after it (but a hundred texts, where there are so many to give): else most of
    what is new would choose, and hardly any of it teach.
    """
    wanted = max(1, round(SELECT_SHARE * len(texts)))
    if since is not None:
        newer = sum(row["time"] > since for row in texts)
        wanted = min(wanted, max(FEWEST_SELECT, round(SELECT_SHARE * newer)))
    if not by_group:
        return {row["example_id"] for row in texts[-wanted:]}
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in texts:
        groups.setdefault(row["group"] or row["example_id"], []).append(row)
    select: set[str] = set()
    for members in sorted(groups.values(), key=lambda members: _order(members[-1]), reverse=True):
        # The oldest group always trains, whatever its size.
        if len(select) >= wanted or len(select) + len(members) >= len(texts):
            break
        select.update(row["example_id"] for row in members)
    if not select:
        raise DataError("All recorded texts belong to one group; splitting by group needs at least two.")
    return select
