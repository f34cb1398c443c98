"""The card of a frozen dataset: what is in it, what was kept out of it and why, and what it was made from.

`<version>.card.json` and the same to read, `<version>.md`, beside the dataset's file. It holds counts, hashes and
settings, and no text.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from services.trainer.dataset import Chosen
from stillhouse.bus.jobs import write_json
from stillhouse.events import DatasetRef
from stillhouse.tasks import Task


def card_of(
    task: Task,
    dataset: DatasetRef,
    chosen: Sequence[Chosen],
    rows: Sequence[dict[str, Any]],
    removed: Mapping[str, int],
    *,
    recorded: int,
    since: str | None,
) -> dict[str, Any]:
    """The card's facts. `rows` are the recorded examples by which `chosen` are known; `removed` counts examples."""
    by_id = {row["example_id"]: row for row in rows}
    texts = [(item, by_id[item.example_id]) for item in chosen]
    splits = {}
    for split in ("train", "select"):
        of = [(item, row) for item, row in texts if item.split == split]
        splits[split] = {
            "texts": len(of),
            "examples": sum(item.weight for item, _ in of),
            "provenance": dict(sorted(Counter(row["provenance"] for _, row in of).items())),
            "from": min(item.time for item, _ in of).isoformat() if of else None,
            "until": max(item.time for item, _ in of).isoformat() if of else None,
            "groups": len({row.get("group") for _, row in of if row.get("group")}),
        }
    golden = task.gate.golden
    return {
        "task": task.key,
        "version": dataset.version,
        "file": dataset.uri.rsplit("/", 1)[-1],
        "inputs_sha256": hashlib.sha256("\n".join(sorted(item.input_sha256 for item in chosen)).encode()).hexdigest(),
        "recorded_examples": recorded,
        "removed_examples": dict(removed),
        "splits": splits,
        "answers": len({row["output"] for _, row in texts}),
        "lineage": {
            "cutoff": dataset.cutoff.isoformat(),
            "since": since,
            "teacher_versions": dict(sorted(Counter(str(row.get("teacher_version")) for _, row in texts).items())),
            "reviews": sum(item.review_id is not None for item in chosen),
            "golden_sha256": None if golden is None else hashlib.sha256(golden.read_bytes()).hexdigest(),
            "group_by": task.group_by,
            "settings": task.data.model_dump(mode="json"),
            "stillhouse": version("stillhouse"),
        },
    }


def write_card(card: Mapping[str, Any], folder: Path) -> None:
    """Write the card to read and the card for programs into `folder`. Raises `OSError`."""
    path = folder / f"{card['version']}.md"
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(as_markdown(card), encoding="utf-8")
    os.replace(draft, path)
    write_json(folder / f"{card['version']}.card.json", card)


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card to read."""
    made = card["lineage"]
    kept = card["recorded_examples"] - sum(card["removed_examples"].values())
    lines = [
        f"# Dataset of {card['task']}",
        "",
        f"Version `{card['version']}`: {card['answers']:,} different answers, recorded until {made['cutoff']}.",
        "",
        "| split | texts | examples | provenance | from | until |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in card["splits"].items():
        shares = ", ".join(f"{count:,} {provenance}" for provenance, count in of["provenance"].items())
        lines.append(f"| {name} | {of['texts']:,} | {of['examples']:,} | {shares} | {of['from']} | {of['until']} |")
    lines += ["", "| of recorded examples | |", "|---|---|", f"| recorded | {card['recorded_examples']:,} |"]
    lines += [f"| {reason} | −{count:,} |" for reason, count in card["removed_examples"].items()]
    lines += [f"| could teach | {kept:,} |", ""]
    lines += ["`select` stops training and calibrates; it is newer than what trains. No text is in both.", ""]
    lines += [f"- {name}: {value}" for name, value in made.items() if value is not None]
    lines += [f"- inputs_sha256: {card['inputs_sha256']}", ""]
    return "\n".join(lines)
