"""Makes a student that ranks: trained on the teacher's scores of recorded lists, exported, compared, published."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.bus.jobs import write_json
from stillhouse.events import ArtefactRef
from stillhouse.models.artefact import publish
from stillhouse.models.port import ModelError
from stillhouse.models.rerank_request import RerankRequest, order_of, scores_of
from stillhouse.tasks import RerankerStudent, Task
from stillhouse.tasks.comparators import comparator_of

if TYPE_CHECKING:
    from services.trainer.job import Progress, Taught
    from stillhouse.distill.rerankers.lists import RankedList


def make_reranker(
    folder: Path,
    task: Task,
    candidate: RerankerStudent,
    student_id: str,
    target: Path,
    train_rows: list[Taught],
    select_rows: list[Taught],
    home: Path,
    curves: list[dict[str, Any]],
    report: Progress,
) -> tuple[ArtefactRef, dict[str, Any]]:
    """The published artefact of one reranker, and its numbers. Raises `ModelError`, `OSError`."""
    try:
        compare = comparator_of(task, home)
    except ValueError as error:
        raise ModelError(f"The task's comparator cannot be used: {error}.") from None
    report("imports", 0.0)
    # Here and not above: importing torch takes seconds, and bad data should be found without it.
    from stillhouse.distill.rerankers.export import export_reranker
    from stillhouse.distill.rerankers.lists import with_hard_negatives
    from stillhouse.distill.rerankers.training import RerankProgress, train_reranker
    from stillhouse.distill.training import hold_back

    train = [_list(one) for one in train_rows]
    select, held = hold_back([_list(one) for one in select_rows])

    def on_progress(progress: RerankProgress) -> None:
        entry = asdict(progress)
        curves.append(entry)
        write_json(folder / "curves.json", curves)
        report("training", min(1.0, len(curves) / candidate.epochs), **entry)

    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    trained = train_reranker(
        candidate,
        with_hard_negatives(train, candidate.documents),
        with_hard_negatives(select, candidate.documents),
        on_progress=on_progress,
        checkpoint_dir=checkpoints,
        seed=candidate.seed,
    )
    report("export", 1.0)
    # Beside its target, so that publishing is one rename on one file system.
    staging = target.with_name(f".{student_id}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    exported = export_reranker(
        trained, staging, student_id, select, held=held, same=compare.same, confidence=task.cascade.confidence
    )
    numbers = asdict(exported)
    write_json(folder / "export.json", numbers)
    return publish(staging, target), numbers


def _list(one: Taught) -> RankedList:
    """A recorded answer as a list with the teacher's scores; where it gave none, its order stands for them."""
    from stillhouse.distill.rerankers.lists import RankedList

    try:
        asked = RerankRequest.of(one.row["input"])
        scores = _scores(one.row, len(asked.documents))
    except ValueError as error:
        raise ModelError(f"Example {one.row['example_id']} cannot teach a reranker: {error}.") from None
    return RankedList(asked.query, asked.documents, scores, weight=one.weight)


def _scores(row: dict[str, Any], documents: int) -> tuple[float, ...]:
    distribution = {str(key): float(value) for key, value in json.loads(row["distribution"] or "{}").items()}
    try:
        return tuple(scores_of(distribution, documents))
    except ValueError:  # of an endpoint that was observed, or of a person: an order alone
        return _by_order(row["output"], documents)


def _by_order(output: str, documents: int) -> tuple[float, ...]:
    places = {place: rank for rank, place in enumerate(order_of(output, documents))}
    return tuple(float(documents - places[place]) for place in range(documents))
