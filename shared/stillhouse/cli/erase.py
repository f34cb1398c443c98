"""`stillhouse erase`: take a request, a person or texts out of everything, and say honestly what remains until when."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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
    show_json,
    show_table,
    when,
)
from stillhouse.cli.connect import publish_events, settings_of_running

if TYPE_CHECKING:
    from stillhouse.cli.lives import Life
    from stillhouse.cli.remains import Remains, Wanted
    from stillhouse.events import TrainingRequested
    from stillhouse.settings import Settings
    from stillhouse.store import Erased

R = TypeVar("R")

_OVER = frozenset({"retired", "turned away"})  # students that serve nobody any more


def erase(
    request: Annotated[list[str] | None, typer.Option(help="A request's id; may be given several times.")] = None,
    person: Annotated[
        list[str] | None, typer.Option(help="A person or conversation: the `group` that its requests named.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="File with a text a line; `.jsonl`: with `text` in each.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    tenant: Tenant = "default",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    as_json: AsJson = False,
) -> None:
    """Erase requests, people or texts for good: store, datasets, kept answers. Students trained on them are marked.

    A text is erased whoever sent it. Calling it again finishes an erasure that was interrupted.
    """
    from stillhouse.cli.remains import Wanted
    from stillhouse.review.answers import forget_answers
    from stillhouse.store import Store
    from stillhouse.store.datasets import forget
    from stillhouse.store.redaction import input_hash, stored_group

    if not (request or person or text):
        fail("Say what to erase: --request ID, --person KEY or --text FILE.")
    settings, store = settings_of_running(home), Store(home / "store")
    hashes = [input_hash(each) for each in _texts(text)] if text else []
    groups = [stored_group(key) for key in person or ()]
    found = store.find(hashes, tenant=tenant, requests=request or (), groups=groups)
    if not yes:
        _confirm(found.rows)
    # The dataset's marks first, the store last: whoever repeats this after a crash finds what is left.
    taken = forget(home / "datasets", found.example_ids, found.input_sha256s)
    judged = forget_answers(home, found.example_ids)
    erased = store.erase(hashes, tenant=tenant, requests=request or (), groups=groups)
    for version, rows in forget(home / "datasets", found.example_ids, found.input_sha256s).items():
        taken[version] = taken.get(version, 0) + rows  # frozen meanwhile
    judged += forget_answers(home, found.example_ids)
    wanted = Wanted(tenant, frozenset(hashes), found.request_ids | set(request or ()), frozenset(groups))
    students = _mark_students(home)
    asked = _ask_for_training(settings, tasks, students)
    report = {
        "erased": asdict(erased),
        "datasets": [{"version": version, "rows": rows} for version, rows in taken.items()],
        "judged_answers": judged,
        "students_marked": [life.as_json() for life in students],
        "training_requested": asked,
        "answers_forgotten": _try(_forget(settings, wanted)),
        "remains": _remains(settings, wanted),
        "stays": STAYS,
    }
    if as_json:
        show_json(report)
        return
    _show(report, erased, students, settings)


STAYS = (
    "Ids and amounts in the ledger, in gates' evidence and in route history; no text. "
    "Files of `review export`, copies in `reply_to` topics and your backups are yours to remove."
)


def _texts(file: Path) -> Iterable[str]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: cannot be read ({error}).")
    if not lines:
        fail(f"{file}: no text in it.")
    if file.suffix != ".jsonl":
        return lines
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(str(json.loads(line)["text"]))
        except (ValueError, KeyError, TypeError):
            fail(f"{file}:{number}: no `text` in it.")
    return texts


def _confirm(rows: Erased) -> None:
    question = (
        f"Erase {rows.examples:,} examples, {rows.audits:,} audits, {rows.cases:,} review cases and "
        f"{rows.reviews:,} reviews for good?"
    )
    if not sys.stdin.isatty():
        fail(f"{question} Nobody is here to answer: give --yes.")
    if not typer.confirm(question):
        fail("Nothing was erased.")


def _mark_students(home: Path) -> list[Life]:
    """Every student whose dataset lost something to an erasure, with the tag in MLflow where it is registered."""
    from stillhouse.cli.history import with_history
    from stillhouse.cli.lives import TOPICS, lives, mark_erased

    found = [life for life in mark_erased(lives(with_history([], home, TOPICS)), home) if life.trained_on_erased]
    if found and (home / "mlflow.db").exists():
        logging.disable(logging.WARNING)  # MLflow tells how it makes its tables
        from stillhouse import registry

        for life in found:
            assert life.trained_on_erased is not None
            registry.mark_erased(home, life.student_id, life.trained_on_erased)
        logging.disable(logging.NOTSET)
    return found


def _ask_for_training(settings: Settings, folder: Path, students: list[Life]) -> list[str] | None:
    """Tasks for which a new student was asked; None where the log could not be reached.

    The request's id follows from student and erasure: said again, the trainer knows it.
    """
    from stillhouse.events import TrainingRequested, follow_id
    from stillhouse.tasks import TaskFileError, load_tasks

    used = {life.task_key: life for life in students if life.state not in _OVER}
    if not used:
        return []
    try:
        declared = load_tasks(folder)
    except TaskFileError as error:
        typer.echo(f"No training was asked for: {error}", err=True)
        return []
    events: list[TrainingRequested] = []
    for key, life in sorted(used.items()):
        if key in declared and declared[key].review.retrain_after_erasure:
            cause = f"{life.student_id} {life.trained_on_erased}"
            events.append(
                TrainingRequested(
                    id=follow_id(cause, TrainingRequested.TYPE, key),
                    tenant=declared[key].tenant,
                    task=declared[key].name,
                    requested_by="cli:erase",
                    reason=f"student {life.student_id} was trained on what was erased",
                )
            )
    if events and _try(_publish(settings, events)) is None:
        return None
    return [event.task_key for event in events]


async def _publish(settings: Settings, events: list[TrainingRequested]) -> bool:
    await publish_events(settings, events)
    return True


async def _forget(settings: Settings, wanted: Wanted) -> int:
    from redis.exceptions import RedisError

    from stillhouse.cli.remains import forget_answers

    try:
        return await forget_answers(settings, wanted)
    except RedisError as error:
        raise ConnectionError(str(error)) from None


def _remains(settings: Settings, wanted: Wanted) -> list[dict[str, Any]] | None:
    from stillhouse.cli.remains import find_remains

    found: list[Remains] | None = _try(find_remains(settings.kafka, wanted))
    return None if found is None else [asdict(each) for each in found]


def _try(work: Coroutine[Any, Any, R]) -> R | None:
    """None where broker or Redis are away: an erasure does what it can, and says what it could not."""
    from aiokafka.errors import KafkaError

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(work)
    except (KafkaError, OSError):
        return None


def _show(report: dict[str, Any], erased: Erased, students: list[Life], settings: Settings) -> None:
    from stillhouse.events import BY_NAME

    rows: list[list[object]] = [[f"store: {name}", count, "erased"] for name, count in asdict(erased).items()]
    rows += [[f"dataset {each['version'][:12]}", each["rows"], "references removed"] for each in report["datasets"]]
    if report["judged_answers"]:
        rows.append(["answers that gates show to people", report["judged_answers"], "erased"])
    forgotten = report["answers_forgotten"]
    kept = "not reached: kept for a day" if forgotten is None else "forgotten"
    rows.append(["answers kept in Redis", forgotten, kept])
    for each in report["remains"] or ():
        until = "until the embedded broker stops" if each["until"] is None else f"until {when(each['until'])}"
        rows.append([f"topic {each['topic']}", each["records"], f"remains {until}"])
    show_table(["where", "rows", "what became of it"], rows, "")
    out = console()
    if report["remains"] is None:
        from stillhouse.cli.remains import WITH_TEXT

        days = ", ".join(f"{topic} {BY_NAME[topic].retention_ms // 86_400_000} d" for topic in WITH_TEXT)
        out.print(f"The log was not reached. It keeps what it has for: {days}.", soft_wrap=True)
    for life in students:
        out.print(f"Student {life.student_id} ({life.state}) was trained on what was erased.", soft_wrap=True)
    if report["training_requested"] is None:
        out.print("A new student was not asked for: no broker. The same command asks when one is up.", soft_wrap=True)
    for key in report["training_requested"] or ():
        out.print(f"A new student of {key} is asked for.", soft_wrap=True)
    out.print(STAYS, soft_wrap=True)
