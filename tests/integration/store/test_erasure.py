"""What was erased is in no file any more, stays erased under replays, and disturbs nobody who reads meanwhile."""

from __future__ import annotations

import threading

import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from stillhouse.store import Erased, Store
from stillhouse.store.redaction import input_hash
from tests.integration.store.rows import at, audit, example


def texts_on_disk(store: Store) -> str:
    """Everything that any file under the store's root says, decompressed."""
    said = []
    for path in sorted(store.root.rglob("*")):
        if path.is_file() and path.suffix == ".parquet":
            said.append(str(pq.read_table(path).to_pylist()) + str(pq.read_metadata(path).to_dict()))
        elif path.is_file():
            said.append(path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(said)


def test_erased_inputs_are_gone_from_every_file_and_other_rows_stay(store) -> None:
    for start in range(0, 60, 10):
        store.append_examples([example(i) for i in range(start, start + 10)])
    store.append_audits([audit(i) for i in range(20)])
    assert "zebra sentence 13'" in texts_on_disk(store)
    assert "Zebra sentence 13!" in texts_on_disk(store)
    # The hash is of the normalised text: the audit's spelling differs from the example's.
    assert store.erase([input_hash("ZEBRA  sentence 13"), example(41).input_sha256]) == Erased(examples=2, audits=1)
    left = texts_on_disk(store)
    assert not any(f"ebra sentence {i}{end}" in left for i in (13, 41) for end in ("'", "!"))
    assert store.examples("default/a").num_rows == store.count_examples("default/a") == 58
    assert store.audits("default/a").num_rows == 19
    assert set(store.erased()) == {example(13).input_sha256, example(41).input_sha256}
    assert Store(store.root).erased() == store.erased()


def test_the_log_holds_no_text(store) -> None:
    store.append_examples([example(i) for i in range(10)])
    log = store.root / "examples" / "_delta_log"
    assert not any("ebra" in path.read_text(encoding="utf-8") for path in log.glob("*.json"))


def test_replays_bring_nothing_back_but_a_later_request_is_recorded(store) -> None:
    store.append_examples([example(1), example(2)])
    store.erase([example(1).input_sha256])
    assert store.append_examples([example(1), example(3)]) == {"a-000003"}
    assert store.append_audits([audit(1)]) == set()
    later = store.erased()[example(1).input_sha256].replace(year=2100)
    assert store.append_examples([example(1, example_id="again", time=later)]) == {"again"}


def test_an_interrupted_erasure_is_finished_by_the_next(store, monkeypatch) -> None:
    store.append_examples([example(1), example(2)])
    table = store._examples._current()
    table.delete(f"input_sha256 = '{example(1).input_sha256}'")  # and then the process died
    assert "zebra sentence 1'" in texts_on_disk(store)
    assert store.erase([example(1).input_sha256]) == Erased(0, 0)
    assert "zebra sentence 1'" not in texts_on_disk(store)


def test_files_that_were_never_committed_are_erased_too(store) -> None:
    store.append_examples([example(2)])
    stray = store.root / "stray"
    write_deltalake(str(stray), store._examples._arrow([store._examples._as_dict(example(1))]))
    (file,) = stray.glob("*.parquet")
    file.rename(store.root / "examples" / file.name)
    store.erase([example(1).input_sha256])
    assert not (store.root / "examples" / file.name).exists()


def test_erasing_where_nothing_is_creates_no_table_and_bad_hashes_are_named(store) -> None:
    assert store.erase([]) == Erased(0, 0)
    assert store.erase(["0" * 64]) == Erased(0, 0)
    assert not (store.root / "examples").exists()
    with pytest.raises(ValueError, match="'my text' is no input_sha256"):
        store.erase(["my text"])


def test_readers_and_writers_at_work_are_not_disturbed(store) -> None:
    store.append_examples([example(i) for i in range(100)])
    stop, errors, reads = threading.Event(), [], []

    def read() -> None:
        other = Store(store.root)
        try:
            while not stop.is_set():
                reads.append(other.examples("default/a").num_rows)
        except Exception as error:
            errors.append(error)

    def write() -> None:
        other = Store(store.root)
        try:
            for i in range(100, 130):
                assert other.append_examples([example(i)]) == {example(i).example_id}
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read), threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for i in range(10):
        store.erase([example(i).input_sha256])
    threads[2].join()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert reads
    assert store.examples("default/a", since=at(9)).num_rows == store.examples("default/a").num_rows == 120
