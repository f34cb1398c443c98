"""A broker, a Valkey, a task file and a store with recorded answers; commands are typed in a thread."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from services.observer.recorder import Recorder
from stillhouse.bus.metering import Meter
from stillhouse.cli import app
from stillhouse.cli.reading import events_of, read_records
from stillhouse.events import ExampleReviewed, ReviewRequested, follow_id
from stillhouse.store import AuditRow, CaseRow, ExampleRow, Store
from stillhouse.store.redaction import input_hash
from tests.unit.trainer.tasks import make_task

TASK_FILE = """
[task]
name = "intents"
labels = ["a", "b", "c"]

[teacher]
seed = "seed.jsonl"
usd_per_call = 0.002

[[student]]
architecture = "hashed_ngrams"
"""
KEY, TASK = "default/intents", make_task()


def example(number: int, **changes: Any) -> ExampleRow:
    """An answer of some minutes ago to text `number`."""
    text = str(changes.pop("input", f"zebra sentence {number}"))
    fields: dict[str, Any] = {
        "example_id": f"e{number}",
        "time": datetime.now(UTC) - timedelta(minutes=500 - number),
        "tenant": "default",
        "task": "intents",
        "request_id": f"request-{number}",
        "input": text,
        "input_sha256": input_hash(text),
        "output": "ab"[number % 2],
        "distribution": '{"a": 0.6, "b": 0.4}',
        "confidence": 0.6,
        "sample": "full",
        "provenance": "teacher",
        "teacher_version": "t1",
    }
    return ExampleRow(**(fields | changes))


def case(row: ExampleRow, reason: str = "low_confidence") -> CaseRow:
    return CaseRow(
        case_id=follow_id(row.request_id, ReviewRequested.TYPE, KEY),
        time=row.time,
        tenant=row.tenant,
        task=row.task,
        example_id=row.example_id,
        request_id=row.request_id,
        input_sha256=row.input_sha256,
        reason=reason,  # type: ignore[arg-type]
        drawn="random" if reason == "random" else "picked",
    )


def audit(row: ExampleRow, student_output: str) -> AuditRow:
    return AuditRow(
        audit_id=f"audit-{row.request_id}",
        time=row.time,
        tenant=row.tenant,
        task=row.task,
        request_id=row.request_id,
        input=row.input,
        student_id="s1",
        artefact_sha256="f" * 64,
        stage="live",
        pi=0.1,
        threshold=0.5,
        would_serve=True,
        agrees=row.output == student_output,
        served_by="student",
        policy=False,
        teacher_output=row.output,
        teacher_version="t1",
        teacher_latency_ms=9.0,
        student_output=student_output,
        student_confidence=0.9,
        group=row.group,
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a task file; no broker and no Redis can be reached from it."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "intents.toml").write_text(TASK_FILE)
    (tmp_path / "tasks" / "seed.jsonl").write_text('{"text": "x", "label": "a"}\n')
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_TASKS", str(tmp_path / "tasks"))
    monkeypatch.setenv("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("STILLHOUSE_REDIS__URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "home"


@pytest.fixture
def invoke(home):
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
async def typed(broker, valkey, home, monkeypatch):
    """Run commands against a broker and a Valkey; `observe` is the observer's part."""
    monkeypatch.setenv("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS", broker.settings.bootstrap_servers)
    monkeypatch.setenv("STILLHOUSE_KAFKA__EMBEDDED", str(broker.settings.embedded).lower())
    monkeypatch.setenv("STILLHOUSE_REDIS__URL", valkey.url)
    store = Store(home / "store")

    async def nobody_hears(event: Any, *, traceparent: str | None = None) -> None:
        raise AssertionError("reviews make no events")

    async def run(*arguments: str):
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments))

    async def said() -> list[Any]:
        return events_of(await read_records(broker.settings, [ExampleReviewed.TYPE]))

    async def observe() -> None:
        await Recorder(store, nobody_hears, {KEY: TASK}, Meter("capture", {KEY: TASK})).reviews(await said())

    run.kafka, run.valkey, run.store, run.said, run.observe = broker.settings, valkey, store, said, observe
    return run
