"""`python -m services.trainer.job <job folder>`: train one student. The trainer supervises it.

Reads `job.json`; leaves `result.json` (the student) or `error.json` (why not). Run again after a crash it goes on where
it was: the frozen dataset and the checkpoints are in the folder, and a finished artefact is not made twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from services.trainer.card import card_of, write_card
from services.trainer.dataset import (
    DataError,
    choose,
    freeze,
    grounded,
    replay_weight,
    teachable,
    within_quotas,
    without_golden,
    without_repeats,
)
from services.trainer.remedy import candidate_with
from services.trainer.rubric import choose_by_rubric
from stillhouse.bus.jobs import ERROR_FILE, PERMANENT, RESULT_FILE, end_with_parent, read_json, write_json
from stillhouse.events import ArtefactRef, DatasetRef
from stillhouse.models.artefact import folder_of, publish, reference
from stillhouse.models.port import ModelError
from stillhouse.quality.corrections import suspect_labels
from stillhouse.quality.grounding import Catalogue
from stillhouse.registry.environment import environment
from stillhouse.store import Store
from stillhouse.tasks import LanguageModel, RerankerStudent, StudentCandidate, Task
from stillhouse.tasks.golden import read_golden
from stillhouse.tasks.responses import Hallucination

JOB_FILE: Final = "job.json"
CURVES_FILE: Final = "curves.json"
QUOTAS: Final = "beyond the quotas of [data]"
REVIEWED_FILE: Final = "reviewed.json"  # what people's verdicts changed in the dataset


def main(folder: Path) -> int:
    """Train what `folder/job.json` asks for. Exit status 0 (a result is there), 1 (try again) or 3 (pointless)."""
    end_with_parent()
    with (folder / "job.lock").open("w") as lock:
        # A predecessor whose trainer died may still be stopping: never two at one set of checkpoints.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / RESULT_FILE).exists():
            return 0
        try:
            _train(folder)
        except (DataError, ModelError) as error:
            write_json(folder / ERROR_FILE, {"message": str(error)})
            return PERMANENT
        except MemoryError:
            write_json(folder / ERROR_FILE, {"message": "out of memory while training", "out_of_memory": True})
            return 1
        except Exception as error:
            # torch has no exception of its own for memory that the allocator refuses.
            memory = "allocate memory" in str(error) or "out of memory" in str(error)
            reason = "out of memory: " if memory else ""
            message = f"{reason}{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            write_json(folder / ERROR_FILE, {"message": message[:1000], "out_of_memory": memory})
            raise
    return 0


def _train(folder: Path) -> None:
    job: dict[str, Any] = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    task, home = Task.model_validate(job["task"]), Path(job["home"])
    candidate, student_id = candidate_with(task.students[job["rung"]], job.get("changes", {})), str(job["student_id"])
    if job.get("batch_size"):  # halved after each time that memory ran out
        candidate = candidate.model_copy(update={"batch_size": int(job["batch_size"])})
    report = Progress(folder)

    report("dataset", 0.0)
    dataset, train, select, teacher_version, left_out = _data(folder, task, home, job)
    curves: list[dict[str, Any]] = read_json(folder / CURVES_FILE) or []
    # A reproduction reads what the platform recorded and writes beside it.
    target = Path(job.get("artefacts") or home / "artefacts") / student_id
    if target.exists():
        artefact, export = reference(target), read_json(folder / "export.json") or {}
    elif isinstance(candidate, LanguageModel):
        from services.trainer.writing import make_writer

        artefact, export = make_writer(folder, task, candidate, student_id, target, train, select, home, curves, report)
    elif isinstance(candidate, RerankerStudent):
        from services.trainer.reranking import make_reranker

        artefact, export = make_reranker(
            folder, task, candidate, student_id, target, train, select, home, curves, report
        )
    else:
        artefact, export = _make(folder, task, candidate, student_id, target, train, select, curves, report)

    cpu = report("done", 1.0)
    last = curves[-1] if curves else {}
    reviewed = read_json(folder / REVIEWED_FILE) or {}
    numbers = (last | export | reviewed).items()
    metrics = {key: float(value) for key, value in numbers if isinstance(value, int | float)}
    if task.gate.golden is not None:
        metrics["golden_left_out"] = float(left_out)
    write_json(
        folder / RESULT_FILE,
        {
            "artefact": artefact.model_dump(mode="json"),
            "dataset": dataset.model_dump(mode="json"),
            "teacher_version": teacher_version,
            "about": {key: value for key, value in export.items() if isinstance(value, str)},
            "metrics": metrics | {"wall_seconds": report.seconds, "peak_rss_mb": report.peak_mb},
            "cpu_seconds": cpu,
            "environment": environment(),
            "time": datetime.now().astimezone().isoformat(),
        },
    )


def _make(
    folder: Path,
    task: Task,
    candidate: StudentCandidate,
    student_id: str,
    target: Path,
    train_rows: list[Taught],
    select_rows: list[Taught],
    curves: list[dict[str, Any]],
    report: Progress,
) -> tuple[ArtefactRef, dict[str, Any]]:
    report("imports", 0.0)
    # Here and not above: importing torch takes seconds, and bad data should be found without it.
    from stillhouse.distill.data import LabelledText
    from stillhouse.distill.export import export
    from stillhouse.distill.joint import train_joint
    from stillhouse.distill.targets.program import program_path, save_program
    from stillhouse.distill.training import Progress as Epoch
    from stillhouse.distill.training import train

    texts, select = (
        [
            LabelledText(one.row["input"], one.row["output"], _distribution(one.row["distribution"]), one.weight)
            for one in rows
        ]
        for rows in (train_rows, select_rows)
    )

    def on_progress(progress: Epoch) -> None:
        entry = asdict(progress)
        curves.append(entry)
        write_json(folder / CURVES_FILE, curves)
        report("training", progress.epoch / progress.epochs, **entry)

    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    learn = train_joint if candidate.architecture == "joint" else train
    trained = learn(
        candidate,
        task.labels,
        texts,
        select,
        on_progress=on_progress,
        checkpoint_dir=checkpoints,
        seed=candidate.seed,
    )
    report("export", 1.0)
    # Beside its target, so that publishing is one rename on one file system.
    staging = target.with_name(f".{student_id}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    exported = export(trained, staging, student_id, task.cascade.confidence)
    # The weights as they were trained: what `stillhouse export` converts. The artefact holds what serves.
    save_program(trained, program_path(target))
    numbers = asdict(exported)
    write_json(folder / "export.json", numbers)
    return publish(staging, target), numbers


@dataclass(frozen=True, slots=True)
class Taught:
    """A recorded example as the store has it, and how much it counts."""

    row: dict[str, Any]
    weight: float


def _data(
    folder: Path, task: Task, home: Path, job: dict[str, Any]
) -> tuple[DatasetRef, list[Taught], list[Taught], str, int]:
    """The frozen dataset (frozen now, or by an earlier attempt) with its examples from the store.

    The last is how many recorded examples were left out because they repeat the task's golden set.
    """
    cutoff = datetime.fromisoformat(job["cutoff"])
    since = datetime.fromisoformat(job["since"]) if job.get("since") else None
    store, golden = Store(home / "store"), _golden(task)
    recorded = store.reviewed_examples(task.key, until=cutoff)
    rows = without_golden(recorded, golden)
    left_out = len(recorded) - len(rows)
    teacher_version = str(max(rows, key=lambda row: row["time"])["teacher_version"]) if rows else ""
    frozen = read_json(folder / "dataset.json")
    if frozen is None:
        suspects: set[str] = (
            suspect_labels(
                (row for row in store.reviews(task.key).to_pylist() if row["time"] <= cutoff),
                teacher_version=teacher_version,
                ceiling=task.review.max_corrected,
                labels=len(task.labels),
            )
            if task.labels
            else set()
        )
        taught, removed = mixed(task, rows, suspects, teacher_version)
        removed = {"repeat the golden set": left_out, **removed}
        by_group = task.group_by == "group"
        choosing = partial(
            choose,
            largest=task.budget.max_train_examples,
            since=since,
            replay_share=task.drift.replay_share,
            by_group=by_group,
            rules_teach=task.data.policy > 0,
        )
        chosen, taught, turned_away, judge_usd = choose_by_rubric(task, taught, choosing, home, folder)
        removed |= turned_away
        dataset = freeze(chosen, home / "datasets", cutoff)
        card = card_of(task, dataset, chosen, taught, removed, recorded=len(recorded), since=job.get("since"))
        write_card(card, home / "datasets")
        reviewed = {
            "texts_with_human_label": sum(item.review_id is not None for item in chosen),
            "examples_left_out": sum(removed.values()) - left_out - removed[QUOTAS],
            "suspect_labels": sorted(suspects),
        } | ({"judge_usd": judge_usd} if task.data.judge is not None else {})
        write_json(folder / REVIEWED_FILE, reviewed)
        write_json(folder / "dataset.json", dataset.model_dump(mode="json"))
        # Again: what was erased before the file was frozen is in no mark beside it, and must not be trained on.
        rows = without_golden(store.reviewed_examples(task.key, until=cutoff), golden)
    else:
        dataset = DatasetRef.model_validate(frozen)
    table = pq.read_table(file_of(dataset.uri), columns=["example_id", "split", "time"])
    frozen_rows = table.to_pylist()
    times = [row["time"] for row in frozen_rows if row["split"] == "train"]
    replayed = replay_weight(times, since, task.drift.replay_share)
    by_id = {row["example_id"]: row for row in rows}
    texts: dict[str, list[Taught]] = {"train": [], "select": []}
    for entry in frozen_rows:
        row = by_id.get(entry["example_id"])
        if row is None or (task.labels and row["output"] not in task.labels):
            continue  # erased since, or answered with a label that the task no longer has
        weight = replayed if since is not None and entry["time"] <= since else 1.0
        if entry["split"] == "train" and row["provenance"] == "human":
            weight *= task.review.human_weight
        if weight > 0:
            texts[entry["split"]].append(Taught(row, weight))
    if not texts["train"] or not texts["select"]:
        raise DataError("No example is left to train on: all were erased, or their labels are not the task's.")
    return dataset, texts["train"], texts["select"], teacher_version, left_out


def mixed(
    task: Task, rows: list[dict[str, Any]], suspects: set[str], teacher_version: str
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The reviewed examples that may teach, and how many each reason took out. Raises `DataError`."""
    checked = next((one for one in task.gate.conditions if isinstance(one, Hallucination)), None)
    steps: list[tuple[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]]] = [
        ("flagged by a person", lambda left: [row for row in left if row["verdict"] != "flag"]),
        ("with a label that people often correct", lambda left: teachable(left, suspects, teacher_version)),
    ]
    if task.data.grounded or checked is not None:  # what a teacher makes up must not be copied
        try:
            named = checked.catalogue if checked is not None else None
            catalogue = Catalogue.read(named) if named is not None else None
        except ValueError as error:
            raise DataError(f"The catalogue of the gate's hallucination condition: {error}.") from None
        steps.append(("state what was not given", lambda left: grounded(left, catalogue)))
    steps.append((QUOTAS, lambda left: within_quotas(left, task.data)))
    if task.data.distinct:
        # Before the quotas: what repeats must not fill them.
        steps.insert(len(steps) - 1, ("nearly repeat another text", without_repeats))
    removed = {}
    for reason, step in steps:
        left = step(rows)
        removed[reason] = len(rows) - len(left)
        rows = left
    return rows, removed


def _golden(task: Task) -> list[str]:
    if task.gate.golden is None:
        return []
    try:
        return [case.input for case in read_golden(task.gate.golden, task.labels)]
    except ValueError as error:
        raise DataError(f"The golden set cannot be kept out of training: {error}.") from None


def file_of(uri: str) -> Path:
    """The local path of a `file://` URI. Raises `ModelError` for other schemes."""
    return folder_of(ArtefactRef(uri=uri, sha256="", size=0))


def _distribution(value: Any) -> dict[str, float]:
    """The store keeps distributions as JSON text."""
    loaded = json.loads(value) if isinstance(value, str) and value else (value or {})
    return {str(label): float(share) for label, share in loaded.items()}


class Progress:
    """Writes `progress.json`: phase, fraction, seconds, CPU seconds of all attempts, memory."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "progress.json"
        earlier = read_json(self._path) or {}
        self._earlier_cpu = float(earlier.get("cpu_seconds", 0.0))
        self._started = time.monotonic()
        self.peak_mb = 0.0
        self.beside_s = 0.0  # CPU seconds of replicas that were asked

    @property
    def seconds(self) -> float:
        """Since this attempt began."""
        return time.monotonic() - self._started

    def __call__(self, phase: str, fraction: float, **numbers: Any) -> float:
        """Report, and give the CPU seconds spent so far by all attempts."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)  # what quantised
        cpu = self._earlier_cpu + used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime + self.beside_s
        # Linux counts in KiB, macOS in bytes.
        self.peak_mb = used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
        fields = {"phase": phase, "fraction": fraction, "seconds": self.seconds, "cpu_seconds": cpu}
        write_json(self._path, {**numbers, **fields, "peak_rss_mb": self.peak_mb, "pid": os.getpid()})
        return cpu


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
