"""`stillhouse erase` as typed: gone from every file, said what remains, marked who learnt it; and killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from services.trainer.dataset import choose, freeze
from stillhouse.bus import encode, producer_options
from stillhouse.cli.reading import events_of, read_records
from stillhouse.events import InferenceRequested, RouteChanged, TrainingRequested
from stillhouse.registry import log_training_run, register_student
from stillhouse.store import RouteRow, Store
from stillhouse.store.datasets import erased_datasets
from tests.integration.review.conftest import KEY, audit, case, example
from tests.integration.review.test_training_data import review
from tests.integration.store.test_erasure import texts_on_disk
from tests.unit.observer.events import completed
from tests.unit.trainer.tasks import route, trained


def fill(home):
    """100 answers; numbers 10 to 12 are Ann's, whose text 10 Bob (20) sent too. Two students learnt, one is live."""
    store = Store(home / "store")
    rows = [example(n, group="ann" if 10 <= n <= 12 else f"g{n}") for n in range(100) if n != 20]
    rows.append(example(20, input="zebra sentence 10", group="bob"))
    store.append_examples(rows)
    store.append_audits([audit(rows[n], "a") for n in (10, 11, 13)])
    store.append_cases([case(rows[n]) for n in (10, 11, 13)])
    store.append_reviews([review(11, "correct", "c", "b"), review(13, "flag", None, "b")])
    everything = store.examples(KEY).to_pylist()
    learnt = {
        "s1": freeze(choose(everything, largest=1000, since=None), home / "datasets", datetime.now(UTC)),
        "s2": freeze(choose(everything[40:], largest=1000, since=None), home / "datasets", datetime.now(UTC)),
    }
    for name, dataset in learnt.items():
        student = trained(name, 1, job_id=name).model_copy(update={"dataset": dataset})
        folder = home / "jobs" / name
        folder.mkdir(parents=True)
        outcome = {"task_key": KEY, "type": student.TYPE, "event": student.model_dump(mode="json")}
        (folder / "outcome.json").write_text(json.dumps(outcome))
    live: RouteChanged = route(1, 2, live="s1")
    store.append_routes([RouteRow(live.id, live.time, "default", "intents", 1, "live", live.model_dump_json())])
    return store, learnt


def ids_in(home, dataset) -> set[str]:
    return set(pq.read_table(home / "datasets" / f"{dataset.version}.parquet")["example_id"].to_pylist())


def test_a_person_is_erased_everywhere_and_only_students_that_learnt_it_are_marked(invoke, home) -> None:
    store, learnt = fill(home)
    refused = invoke("erase", "--person", "ann")
    assert refused.exit_code == 1
    assert "Erase 3 examples, 2 audits, 2 review cases and 1 reviews for good? Nobody is here" in refused.stderr
    done = invoke("erase", "--person", "ann", "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["erased"] == {"examples": 3, "audits": 2, "cases": 2, "reviews": 1}
    # Text 10 stays: Bob sent it too, and his example stands for it in the dataset.
    assert told["datasets"] == [{"version": learnt["s1"].version, "rows": 2}]
    assert not {"e11", "e12"} & ids_in(home, learnt["s1"])
    assert "e20" in ids_in(home, learnt["s1"])
    assert [(one["student_id"], one["state"]) for one in told["students_marked"]] == [("s1", "live")]
    # No broker and no Redis: said, not hidden.
    assert (told["training_requested"], told["answers_forgotten"], told["remains"]) == (None, None, None)
    left = texts_on_disk(store)
    assert not any(f"zebra sentence {n}'" in left for n in (11, 12))
    assert "ann" not in {row["group"] for row in store.examples(KEY).to_pylist()}
    assert store.append_examples([example(n, group="ann") for n in (10, 11, 12)]) == set()
    shown = invoke("erase", "--person", "ann", "--yes").stdout
    for part in ("store: examples", "The log was not reached", "Student s1 (live) was trained on", "no broker"):
        assert part in shown
    assert invoke("erase", "--yes").stderr.startswith("Say what to erase")


def test_texts_from_a_file_are_erased_whoever_sent_them(invoke, home, tmp_path) -> None:
    fill(home)
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "Zebra  sentence 10!"}\n')
    told = json.loads(invoke("erase", "--text", str(file), "--yes", "--json").stdout)
    assert told["erased"]["examples"] == 2
    file.write_text("[]\n")
    assert "texts.jsonl:1: no `text` in it" in invoke("erase", "--text", str(file), "--yes").stderr


async def test_topics_and_kept_answers_are_told_and_a_new_student_is_asked_for_once(typed, home) -> None:
    _, learnt = fill(home)
    student = trained("s1", 1, job_id="s1").model_copy(update={"dataset": learnt["s1"]})
    register_student(home, student=student, run_id=log_training_run(home, student=student, parameters={}, curves=[]))
    async with AIOKafkaProducer(**producer_options(typed.kafka)) as producer:
        for event in (
            InferenceRequested(id="request-11", task="intents", input="zebra sentence 11", group="ann"),
            InferenceRequested(id="another", task="intents", input="something of Ann's", group="ann"),
            InferenceRequested(id="other", task="intents", input="zebra sentence 11"),
            completed(11, request_id="request-11", input="zebra sentence 11"),
        ):
            record = encode(event, source="/test")
            await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
        # In one batch: the embedded broker's end offset is then that of its first record.
        batch = producer.create_batch()
        for number in range(3):
            record = encode(completed(number, request_id=f"batched-{number}", group="ann"), source="/test")
            batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
        await (await producer.send_batch(batch, "inference.completed", partition=0))
        await producer.send_and_wait("dlq.observer", b'{"request_id": "request-11", cut', key=b"k")
    redis = Redis.from_url(typed.valkey.url)
    await redis.set("stillhouse:done:request-11", completed(11, request_id="request-11").model_dump_json())
    await redis.set("stillhouse:done:another", completed(1, request_id="another", group="ann").model_dump_json())
    await redis.set("stillhouse:done:other", completed(1, request_id="other").model_dump_json())
    done = await typed("erase", "--person", "ann", "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert {each["topic"]: each["records"] for each in told["remains"]} == {
        "inference.requested": 2,
        "inference.completed": 4,
        "dlq.observer": 1,
    }
    assert told["answers_forgotten"] == 2
    assert await redis.keys("stillhouse:done:*") == [b"stillhouse:done:other"]
    await redis.aclose()
    assert told["training_requested"] == [KEY]

    shown = (await typed("erase", "--person", "ann", "--yes")).stdout
    assert "topic inference.requested" in shown
    asked = events_of(await read_records(typed.kafka, [TrainingRequested.TYPE]))
    assert len(asked) == 2
    assert len({event.id for event in asked}) == 1  # the trainer knows the second
    students = (await typed("students")).stdout
    assert "live (trained on erased)" in students
    from mlflow import MlflowClient

    uri = f"sqlite:///{home / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    [version] = client.search_model_versions("tags.`stillhouse.student_id` = 's1'")
    at = erased_datasets(home / "datasets")[learnt["s1"].version]
    assert version.tags["stillhouse.trained_on_erased"] == at.isoformat()
    assert client.get_run(version.run_id).data.tags["stillhouse.trained_on_erased"] == at.isoformat()


KILLED = """
import os, signal, sys
from stillhouse.store import datasets, tables
from deltalake import DeltaTable
left = int(sys.argv[2])

def dying(real):
    def step(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return step

datasets._replace = dying(datasets._replace)
tables.Table.delete = dying(tables.Table.delete)
DeltaTable.vacuum = dying(DeltaTable.vacuum)
from stillhouse.cli import app
app(["erase", "--person", "ann", "--yes", "--json"])
"""


@pytest.mark.parametrize("step", [1, 2, 4, 9, 10])
def test_killed_at_any_step_the_same_command_finishes_it(invoke, home, step) -> None:
    """Steps: 1 the dataset's mark, 2 its file; for each of four tables the rows (3, 5, ...), their files (4, ...)."""
    store, learnt = fill(home)
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(home), str(step)],
        capture_output=True,
        env=os.environ.copy(),
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    done = invoke("erase", "--person", "ann", "--yes", "--json")
    assert done.exit_code == 0, done.stderr
    left = texts_on_disk(store)
    assert not any(f"ebra sentence {n}'" in left for n in (11, 12))
    assert store.audits(KEY).num_rows == store.cases(KEY).num_rows == 1
    assert [row["review_id"] for row in store.reviews(KEY).to_pylist()] == ["review-13-0"]
    assert not {"e11", "e12"} & ids_in(home, learnt["s1"])
    assert set(erased_datasets(home / "datasets")) == {learnt["s1"].version}
    late = [example(n, group="ann") for n in (10, 11, 12)]
    assert store.append_examples(late) == store.append_audits([audit(row, "a") for row in late]) == set()
    assert store.append_cases([case(row) for row in late]) == store.append_reviews([review(11, "flag", None, "b")])
    assert store.cases(KEY).num_rows == 1
    tomorrow = example(11, example_id="new", request_id="new", group="ann", time=datetime.now(UTC) + timedelta(days=1))
    assert store.append_examples([tomorrow]) == {"new"}
