"""`stillhouse sweep`: which student, taught how? A search under a budget, from a task's answers or a file's."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillhouse.cli._common import (
    HOME,
    TASKS,
    AsJson,
    Home,
    TasksFolder,
    Tenant,
    console,
    fail,
    percent,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from stillhouse.cli.labelled import Labelled
    from stillhouse.distill.sweep import Parts, Sweep, Trial

SHARES = {"test": 0.15, "judge": 0.15, "select": 0.15}
FEWEST = 120


def sweep(
    task: Annotated[str | None, typer.Argument(help="A task's name: its recorded answers teach and judge.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Instead: texts with answers (.jsonl, .jsonl.gz, .csv, a folder).")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="Wall clock, of all runs of this sweep together.")] = 10.0,
    teacher_calls: Annotated[
        int | None, typer.Option(min=10, help="Answers of the teacher that a student may learn from; all by default.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates, at most.")] = None,
    architectures: Annotated[
        str, typer.Option(help="Architectures to choose from, with commas between.")
    ] = "hashed_ngrams,static_embeddings,text_cnn,cut_encoder",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each candidate; the architecture's by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the sweep; from its data and options by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of splits, proposals and training.")] = 0,
    tenant: Tenant = "default",
    tasks: TasksFolder = TASKS,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Search students by agreement, CPU and size at once: method, temperature, alpha, architecture (Optuna).

    Shows the Pareto front, judged on texts that chose nothing. The same command goes on where a stopped one was; every
    candidate is a run in MLflow.
    """
    from rich.console import Console
    from rich.progress import Progress

    from stillhouse.distill.sweep import sweep as search
    from stillhouse.models.port import ModelError
    from stillhouse.registry import log_sweep_trial

    wanted = tuple(one.strip() for one in architectures.split(",") if one.strip())
    try:
        rows = _rows(task, data, tenant, tasks, home)
        _check(wanted)
        parts = _parts(rows, seed)
        called = name or _name(task or str(data), rows, wanted, teacher_calls, epochs, seed)
        with Progress(console=Console(stderr=True, highlight=False), transient=True) as progress:
            bar = progress.add_task(called, total=1.0)

            def on_progress(number: int, what: str, fraction: float) -> None:
                progress.update(bar, description=f"trial {number}: {what}", completed=fraction)

            def on_trial(trial: Trial) -> None:
                log_sweep_trial(home, sweep=called, number=trial.number, **_logged(trial))

            found = search(
                home / "sweeps" / called,
                parts,
                architectures=wanted,
                minutes=minutes,
                answers=teacher_calls,
                most_trials=trials,
                epochs=epochs,
                seed=seed,
                on_trial=on_trial,
                on_progress=on_progress,
            )
    except (ValueError, ModelError) as error:
        fail(f"{str(error).rstrip('.')}.")
    if as_json:
        show_json(_as_json(called, found, parts, home))
        return
    _show(called, found, parts, home)


def _rows(task: str | None, data: Path | None, tenant: str, tasks: Path, home: Path) -> list[Labelled]:
    from stillhouse.cli.labelled import Labelled, read_labelled
    from stillhouse.tasks import TaskFileError, load_tasks

    if (task is None) == (data is None):
        raise ValueError("name a task, or a file with --data: one of the two")
    if data is not None:
        return read_labelled(data)
    try:
        declared = load_tasks(tasks)
    except TaskFileError as error:
        raise ValueError(str(error)) from None
    of = declared.get(f"{tenant}/{task}")
    if of is None:
        raise ValueError(f"{tasks} declares no task {tenant}/{task}; known are {', '.join(sorted(declared)) or 'none'}")
    if not of.labels:
        raise ValueError(f"{of.key} does not classify; a sweep searches classifiers")
    from stillhouse.store import Store

    recorded = Store(home / "store").reviewed_examples(of.key)
    return [
        Labelled(row["input"], row["output"], json.loads(row["distribution"] or "{}"), None, row["group"] or None)
        for row in recorded
        if row["provenance"] != "policy" and row["verdict"] != "flag" and row["output"] in of.labels
    ]


def _check(architectures: Sequence[str]) -> None:
    from typing import get_args

    from stillhouse.tasks.students import Architecture

    known = get_args(Architecture)
    for one in architectures:
        if one not in known:
            raise ValueError(f"no architecture is called {one!r}; there are {', '.join(known)}")
    if not architectures:
        raise ValueError(f"name at least one architecture of {', '.join(known)}")


def _parts(rows: Sequence[Labelled], seed: int) -> Parts:
    """Each text once. `test`, and `dev` as what chooses trials, are the file's where it has them; else drawn."""
    from stillhouse.distill.data import LabelledText
    from stillhouse.distill.sweep import Parts

    texts = {" ".join(row.text.casefold().split()): row for row in rows}
    once = sorted(texts.values(), key=lambda row: hashlib.sha256(row.text.encode()).hexdigest())
    random.Random(seed).shuffle(once)
    if len(once) < FEWEST or len({row.answer for row in once}) < 2:
        raise ValueError(f"a sweep takes {FEWEST} different texts with at least 2 answers; there are {len(once)}")
    parts: dict[str, list[Labelled]] = {
        "test": [row for row in once if row.split == "test"],
        "judge": [row for row in once if row.split in ("dev", "validation", "judge")],
        "select": [],
    }
    rest = [row for row in once if row.split not in ("test", "dev", "validation", "judge")]
    for part, share in SHARES.items():
        if not parts[part]:
            count = round(share * len(once)) if len(rest) == len(once) else round(share * len(rest))
            parts[part], rest = rest[:count], rest[count:]
    made = {
        part: [LabelledText(row.text, row.answer, row.distribution) for row in found]
        for part, found in (parts | {"train": rest}).items()
    }
    return Parts(labels=tuple(sorted({row.answer for row in once})), **made)


def _name(
    source: str, rows: Sequence[Labelled], wanted: Sequence[str], calls: int | None, epochs: int | None, seed: int
) -> str:
    facts = [[(row.text, row.answer, row.split) for row in rows], list(wanted), calls, epochs, seed]
    return f"{Path(source).name.split('.')[0]}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]}"


def _logged(trial: Trial) -> dict[str, dict[str, Any]]:
    numbers = {
        "agreement": trial.agreement,
        "cpu_ms": trial.cpu_ms,
        "bytes": trial.bytes,
        "cpu_seconds": trial.cpu_seconds,
        "teacher_answers": trial.answers,
    }
    return {
        "parameters": {**trial.candidate, "method": trial.method, "failed": trial.failed},
        "metrics": {key: float(value) for key, value in numbers.items() if value is not None},
    }


def _as_json(name: str, found: Sweep, parts: Parts, home: Path) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "sweep": name,
        "folder": str(home / "sweeps" / name),
        "seconds": found.seconds,
        "texts": {part: len(getattr(parts, part)) for part in ("train", "select", "judge", "test")},
        "front": list(found.front),
        "trials": [asdict(trial) | {"on_front": trial.number in found.front} for trial in found.trials],
    }


def _show(name: str, found: Sweep, parts: Parts, home: Path) -> None:
    out = console()
    failed = sum(trial.failed is not None for trial in found.trials)
    out.print(
        f"{name}: {len(found.trials)} candidates in {found.seconds / 60:.1f} minutes"
        f"{f', {failed} of them failed' if failed else ''}; each learnt from at most "
        f"{max((trial.answers for trial in found.trials), default=0):,} answers of the teacher.",
        soft_wrap=True,
        markup=False,
    )
    front = sorted((one for one in found.trials if one.number in found.front), key=lambda one: one.cpu_ms or 0.0)
    show_table(
        ["trial", "architecture", "method", "T", "alpha", "agreement", "on test", "CPU ms", "MB", "training CPU-s"],
        [_row(trial) for trial in front],
        "No candidate was trained to its end; give more --minutes.",
    )
    if front:
        out.print(
            f"Nothing tried is better in one of agreement, CPU and size and worse in none. Agreement chose, on "
            f"{len(parts.judge):,} texts; `on test` is of {len(parts.test):,} others, with its 95 % interval. "
            f"Artefacts and candidates are in {home / 'sweeps' / name}.",
            soft_wrap=True,
            markup=False,
        )


def _row(trial: Trial) -> list[object]:
    of = trial.candidate
    size = f"{of['dim']} wide"
    if of["architecture"] in ("cut_encoder", "joint"):
        size = f"{of['layers']} layers" + (f", {of['width']:g} of each" if of["width"] < 1 else "")
    terms = {term["kind"]: term for term in of.get("distill", ())}
    alpha = terms.get("hard_labels", {}).get("weight", 0.0) if terms else of["alpha"]
    softened = next((term["temperature"] for term in terms.values() if "temperature" in term), of["temperature"])
    temperature = None if trial.method == "hard_labels" else softened
    test = trial.test
    return [
        trial.number,
        f"{of['architecture']}, {size}",
        trial.method,
        temperature,
        alpha,
        percent(trial.agreement),
        f"{percent(test[0])} ({100 * test[1]:.1f}–{100 * test[2]:.1f})" if test else None,
        trial.cpu_ms,
        (trial.bytes or 0) / 1e6,
        trial.cpu_seconds,
    ]
