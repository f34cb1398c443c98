"""Appending and reading: ids merge, reads are filtered and typed, replays and other writers change nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from deltalake import DeltaTable, write_deltalake

from stillhouse.store import EvaluationRow, Store
from stillhouse.store import tables as module
from stillhouse.store.tables import Table
from tests.integration.store.rows import at, audit, entry, example, route


def ids(table, column="example_id"):
    return table[column].to_pylist()


def test_creating_and_reading_an_empty_store_touches_nothing_and_is_typed(store) -> None:
    assert store.examples("default/a").schema.field("time").type.tz == "UTC"
    assert {"output", "sample", "input_sha256"} <= set(store.examples("default/a").column_names)
    assert store.audits("default/a", "s1").num_rows == store.ledger().num_rows == 0
    assert store.evaluations("default/a").select(["student_id", "time"]).to_pylist() == []
    assert store.routes("default/a").num_rows == store.count_examples("default/a") == 0
    assert store.latest_routes() == []
    assert not store.root.exists()


def test_rows_come_back_as_they_were_written(store) -> None:
    row = replace(example(1), group="chat-7", redactions="email,phone", input="it's {quoted} — \x00 żółw")
    store.append_examples([row])
    (found,) = store.examples("default/a").to_pylist()
    assert type(row)(**found) == row


def test_only_new_ids_are_given_and_written_once(store) -> None:
    first = store.append_examples([example(i) for i in range(50)])
    again = store.append_examples([*(example(i) for i in range(25, 75)), example(74)])
    assert first == {example(i).example_id for i in range(50)}
    assert again == {example(i).example_id for i in range(50, 75)}
    assert store.append_examples([example(i) for i in range(75)]) == set()
    assert ids(store.examples("default/a")) == [example(i).example_id for i in range(75)]
    assert store.append_examples([]) == set()


def test_an_id_is_written_once_though_its_time_differs(store) -> None:
    # A teacher's answer is in `inference.completed` and, some time later, in `inference.audited`.
    assert store.append_examples([example(1), example(1, time=at(20), output="no")]) == {"a-000001"}
    for i in range(2, 40):
        store.append_examples([example(i)])
    assert store.append_examples([example(1, time=at(500))]) == set()
    assert store.append_examples([example(1, time=at(-500))]) == set()
    assert store.examples("default/a", until=at(1)).to_pylist()[0]["output"] == "yes"
    # Said again days later, after a restart: verdicts and routes are few, so all of them are looked at.
    verdict = EvaluationRow("e1", at(1), "default", "a", "s1", "offline", "undecided", "open", 40)
    assert store.append_evaluations([verdict]) == {"e1"}
    assert store.append_evaluations([replace(verdict, time=at(1_000_000))]) == set()
    assert store.append_routes([route(1)]) == {"a-1"}
    assert store.append_routes([replace(route(1), time=at(1_000_000))]) == set()


def test_examples_are_filtered_by_task_time_and_sample_and_ordered_by_time(store) -> None:
    store.append_examples([example(i) for i in (5, 3, 9, 1, 7, 8)])
    store.append_examples([example(i, task="b") for i in range(10)] + [example(2, tenant="other", example_id="o")])
    assert ids(store.examples("default/a", since=at(3), until=at(8))) == ["a-000005", "a-000007", "a-000008"]
    assert ids(store.examples("default/a", samples=("full",), limit=2)) == ["a-000001", "a-000003"]
    assert ids(store.examples("default/a", samples=())) == []
    assert ids(store.examples("other/a")) == ["o"]
    assert store.examples("default/it's").num_rows == 0
    with pytest.raises(ValueError, match="write <tenant>/<task>"):
        store.examples("a")


def test_times_are_compared_to_the_microsecond_whatever_the_log_holds(store) -> None:
    store.append_examples([example(1)])
    just_before, same = at(1) - timedelta(microseconds=1), at(1)
    assert store.examples("default/a", since=just_before).num_rows == 1
    assert store.examples("default/a", since=same).num_rows == 0
    assert store.count_examples("default/a", just_before) == 1
    assert store.count_examples("default/a", same) == 0
    assert store.examples("default/a", since=just_before, until=same).num_rows == 1
    # By the log's statistics as another process reads them.
    other = Store(store.root)
    assert other.append_examples([example(1)]) == set()
    assert other.count_examples("default/a", just_before) == 1


@pytest.mark.parametrize("mixed", [False, True], ids=["one task per file", "both tasks in each file"])
def test_count_equals_reading(store, mixed) -> None:
    for start in range(0, 60, 20):
        own = [example(i) for i in range(start, start + 20)]
        others = [example(i, task="b") for i in range(start, start + 20, 2)]
        for batch in [own + others] if mixed else [own, others]:
            store.append_examples(batch)
    for since in (None, at(-1), at(0), at(19), at(27), at(58), at(59)):
        for task in ("default/a", "default/b", "default/c", "other/a"):
            assert store.count_examples(task, since) == store.examples(task, since=since).num_rows


def test_a_transaction_is_applied_once(store) -> None:
    assert store.append_audits([audit(1)], transaction=("log-1/0", 0)) == {"audit-1"}
    assert store.append_audits([audit(2)], transaction=("log-1/0", 0)) == set()
    assert store.append_audits([audit(2)], transaction=("log-1/0", 9)) == {"audit-2"}
    assert store.append_audits([audit(3)], transaction=("log-1/0", 5)) == set()
    # The next incarnation of the log begins at 0 again.
    assert store.append_audits([audit(3)], transaction=("log-2/0", 0)) == {"audit-3"}
    assert Store(store.root).append_audits([audit(4)], transaction=("log-2/0", 0)) == set()
    assert ids(store.audits("default/a", "s1"), "audit_id") == ["audit-1", "audit-2", "audit-3"]
    assert store.audits("default/a", "s2").num_rows == 0


def test_ledger_evaluations_and_routes(store) -> None:
    store.append_ledger([entry(i) for i in range(4)] + [entry(1, task="b")])
    assert ids(store.ledger("default/a", since=at(1)), "entry_id") == ["a-2", "a-3"]
    assert store.ledger().num_rows == 5
    assert store.ledger(since=at(2)).num_rows == 1
    verdict = EvaluationRow("e1", at(1), "default", "a", "s1", "offline", "undecided", "open", 40, needs_more=10)
    assert store.append_evaluations([verdict, verdict]) == {"e1"}
    (found,) = store.evaluations("default/a").to_pylist()
    assert EvaluationRow(**found) == verdict
    store.append_routes([route(2), route(10), route(1, task="b")])
    store.append_routes([route(9)])
    assert ids(store.routes("default/a"), "version") == [2, 9, 10]
    assert [(found.task, found.version) for found in store.latest_routes()] == [("a", 10), ("b", 1)]


def test_a_time_without_offset_is_refused(store) -> None:
    with pytest.raises(ValueError, match="'a-000001' for examples has no offset: use an aware datetime"):
        store.append_examples([example(1, time=datetime(2026, 1, 1))])


CHILD = """
import sys
from pathlib import Path
from stillhouse.store import Store
from tests.integration.store.rows import example
store, mine = Store(Path(sys.argv[1])), int(sys.argv[2])
sys.stdin.readline()
for start in range(0, 100, 10):
    for row_id in store.append_examples([example(i) for i in range(start, start + 10 + mine)]):
        print(row_id)
"""


def test_processes_that_append_the_same_rows_share_them_out(store) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store.root), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate()[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    every = [row_id for lines in said for row_id in lines]
    assert sorted(every) == ids(store.examples("default/a")) == [example(i).example_id for i in range(102)]


def test_threads_that_append_and_read_one_store(store) -> None:
    def work(number: int) -> int:
        new = len(store.append_examples([example(i) for i in range(number * 5, number * 5 + 10)]))
        assert store.count_examples("default/a") >= new
        return new

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(24))) == store.count_examples("default/a") == 125


def test_a_writer_without_the_lock_makes_the_append_look_again(store, monkeypatch) -> None:
    store.append_examples([example(0)])
    other = [example(1), example(2)]
    real = Table._current
    raced = []

    def current(table: Table) -> DeltaTable:
        found = real(table)
        if not raced:
            raced.append(True)
            # After our snapshot was taken, and before the merge: as from a machine with a lock of its own.
            arrow = table._arrow([table._as_dict(row) for row in other])
            write_deltalake(str(table.folder), arrow, mode="append")
        return found

    monkeypatch.setattr(Table, "_current", current)
    assert store.append_examples([example(i) for i in range(1, 5)]) == {"a-000003", "a-000004"}
    assert ids(store.examples("default/a")) == [example(i).example_id for i in range(5)]


def test_small_files_are_joined_and_old_ones_removed(store, monkeypatch) -> None:
    monkeypatch.setattr(module, "COMPACT_EVERY", 8)
    for i in range(20):
        store.append_examples([example(i)])
    table = DeltaTable(store.root / "examples")
    assert len(table.file_uris()) < 8
    assert any((store.root / "examples" / "_delta_log").glob("*.checkpoint.parquet"))
    assert ids(Store(store.root).examples("default/a")) == [example(i).example_id for i in range(20)]
    assert store.append_examples([example(i) for i in range(21)]) == {"a-000020"}


def test_others_cleaned_up_or_removed_the_table_meanwhile(store, monkeypatch) -> None:
    store.append_examples([example(0)])
    assert store.count_examples("default/a") == 1
    monkeypatch.setattr(module, "COMPACT_EVERY", 8)
    other = Store(store.root)
    for i in range(1, 20):
        other.append_examples([example(i)])
    log = store.root / "examples" / "_delta_log"
    checkpoint = max(int(path.name[:20]) for path in log.glob("*.checkpoint.parquet"))
    for path in log.glob("*.json"):
        if int(path.name[:20]) < checkpoint:
            path.unlink()  # as after a day
    assert store.append_examples([example(i) for i in range(21)]) == {"a-000020"}
    assert store.count_examples("default/a") == store.examples("default/a").num_rows == 21
    shutil.rmtree(store.root / "examples")
    assert store.count_examples("default/a") == store.examples("default/a").num_rows == 0
    assert store.append_examples([example(1)]) == {"a-000001"}
    assert store.count_examples("default/a") == 1


def test_a_compaction_that_fails_fails_no_append(store, monkeypatch) -> None:
    monkeypatch.setattr(module, "COMPACT_EVERY", 1)
    monkeypatch.setattr(module, "FILE_BYTES", -1)
    assert store.append_examples([example(1)]) == {"a-000001"}
    assert store.append_examples([example(2)]) == {"a-000002"}


def test_a_field_that_rows_gained_later_is_null_in_old_rows(store) -> None:
    @dataclass(frozen=True)
    class Before:
        note_id: str
        time: datetime
        text: str

    @dataclass(frozen=True)
    class After(Before):
        mark: int | None = None

    folder = store.root / "notes"
    Table(folder, Before).append([Before("n1", at(1), "x")])
    assert Table(folder, After).read("true").to_pylist()[0]["mark"] is None
    assert Table(folder, After).append([After("n2", at(2), "y", 7)]) == {"n2"}
    found = Table(folder, After).read("true").sort_by("note_id").to_pylist()
    assert [(row["note_id"], row["mark"]) for row in found] == [("n1", None), ("n2", 7)]
    # An older writer that is still running goes on.
    assert Table(folder, Before).append([Before("n1", at(1), "x"), Before("n3", at(3), "z")]) == {"n3"}
