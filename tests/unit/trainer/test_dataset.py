"""What a student learns from: by time, by text, by group, never a rule's answer, and always the same."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.dataset import DataError, choose, freeze, replay_weight, teachable
from tests.unit.trainer.tasks import at


def row(number: int, text: int | None = None, **changes):
    return {
        "example_id": f"e{number:05}",
        "time": at(number),
        "input_sha256": f"{(number if text is None else text) * 7919 % 100_003:064x}",
        "output": "ab"[number % 2],
        "provenance": "teacher",
        "sample": "full",
        "group": None,
    } | changes


def test_the_newest_fifteen_percent_select() -> None:
    chosen = choose([row(n) for n in range(200)], largest=1000, since=None)
    assert [item.split for item in chosen] == ["train"] * 170 + ["select"] * 30
    assert [item.time for item in chosen] == sorted(item.time for item in chosen)


@given(st.lists(st.integers(0, 120), min_size=120, max_size=400), st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_text_is_on_both_sides_and_every_text_is_there_once(texts, by_group) -> None:
    rows = [row(number, text, group=f"g{text % 40}") for number, text in enumerate(texts)]
    rows += [row(1000 + n, 500 + n) for n in range(60)]
    chosen = choose(rows, largest=10_000, since=None, by_group=by_group)
    hashes = [item.input_sha256 for item in chosen]
    assert len(hashes) == len(set(hashes)) == len({row["input_sha256"] for row in rows})
    assert sum(item.weight for item in chosen) == len(rows)
    by_id = {row["example_id"]: row for row in rows}
    if by_group:
        train, select = (
            {by_id[item.example_id]["group"] or item.example_id for item in chosen if item.split == split}
            for split in ("train", "select")
        )
        assert not train & select
    assert {item.split for item in chosen} == {"train", "select"}


def test_the_newest_answer_stands_for_a_text() -> None:
    chosen = choose([*(row(n) for n in range(100)), row(200, 3, output="b")], largest=1000, since=None)
    newest = [item for item in chosen if item.example_id == "e00200"]
    assert (len(newest), newest[0].weight, newest[0].split) == (1, 2, "select")
    assert "e00003" not in {item.example_id for item in chosen}


def test_rules_teach_nothing() -> None:
    rows = [row(n, provenance="policy" if n % 3 == 0 else "teacher") for n in range(150)]
    assert len(choose(rows, largest=1000, since=None)) == 100


def test_too_little_is_refused_with_the_number() -> None:
    with pytest.raises(DataError, match="Only 49 distinct texts"):
        choose([row(n) for n in range(49)], largest=1000, since=None)
    with pytest.raises(DataError, match="at least two different"):
        choose([row(n, output="a") for n in range(80)], largest=1000, since=None)


def test_after_a_drift_old_texts_are_replayed_beside_the_new() -> None:
    rows = [row(n) for n in range(1000)]
    chosen = choose(rows, largest=300, since=at(499))
    old = [item for item in chosen if item.time <= at(499)]
    assert (len(chosen), len(old)) == (300, 90)
    # Replay is spread over all that was before, not only its end.
    assert min(item.time for item in old) < at(100)
    few_new = choose(rows, largest=300, since=at(949))
    assert sum(item.time > at(949) for item in few_new) == 50


def test_after_a_drift_most_of_what_is_new_teaches() -> None:
    rows = [row(n) for n in range(3000)]
    chosen = choose(rows, largest=10_000, since=at(2199))
    assert len(chosen) == 3000
    new = [item for item in chosen if item.time > at(2199)]
    assert (len(new), sum(item.split == "select" for item in new)) == (800, 120)
    assert sum(item.split == "select" for item in choose(rows, largest=10_000, since=at(2949))) == 100
    assert sum(item.split == "select" for item in choose(rows[:300], largest=10_000, since=at(249))) == 45


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0, 0.9))
@settings(deadline=None)
def test_replayed_texts_weigh_their_share_at_most_and_never_more_than_new_ones(old, new, share) -> None:
    weight = replay_weight([at(n) for n in range(old + new)], at(old - 0.5), share)
    assert 0.0 <= weight <= 1.0
    if old and new:
        assert weight * old <= share * (weight * old + new) + 1e-9
    assert replay_weight([at(n) for n in range(old + new)], None, share) == 1.0


def test_freezing_twice_gives_one_file_named_by_content_and_without_text(tmp_path) -> None:
    rows = [row(n, input="secret") for n in range(100)]
    chosen = choose(rows, largest=1000, since=None)
    first = freeze(chosen, tmp_path, at(100))
    assert freeze(choose(rows[::-1], largest=1000, since=None), tmp_path, at(100)) == first
    assert [path.name for path in tmp_path.iterdir()] == [f"{first.version}.parquet"]
    table = pq.read_table(tmp_path / f"{first.version}.parquet")
    assert set(table.column_names) == {"example_id", "input_sha256", "split", "weight", "sample", "time", "review_id"}
    assert (first.n_train, first.n_select) == (85, 15)
    other = freeze(choose(rows[:-1], largest=1000, since=None), tmp_path, at(100))
    assert other.version != first.version


def reviewed(number: int, **changes):
    return row(number, verdict=None, review_id=None, teacher_output="ab"[number % 2], teacher_version="t1") | changes


def test_flagged_texts_teach_nothing_and_suspect_labels_only_where_a_person_looked() -> None:
    rows = [
        reviewed(1, verdict="flag"),
        reviewed(2),
        reviewed(3, teacher_output="x"),
        reviewed(4, teacher_output="x", verdict="correct", output="a", provenance="human"),
        reviewed(5, teacher_output="x", verdict="approve", provenance="human"),
        reviewed(6, teacher_output="x", teacher_version="t0"),
    ]
    assert [row["example_id"][-1] for row in teachable(rows, {"x"}, "t1")] == ["2", "4", "5", "6"]
    assert [row["example_id"][-1] for row in teachable(rows, set(), "t1")] == ["2", "3", "4", "5", "6"]


def test_a_persons_verdict_makes_another_dataset_and_is_named_in_it(tmp_path) -> None:
    rows = [reviewed(n) for n in range(100)]
    plain = freeze(choose(rows, largest=1000, since=None), tmp_path, at(100))
    rows[7] |= {"provenance": "human", "verdict": "correct", "review_id": "r7", "output": "a"}
    corrected = freeze(choose(rows, largest=1000, since=None), tmp_path, at(100))
    assert corrected.version != plain.version
    table = pq.read_table(tmp_path / f"{corrected.version}.parquet").to_pylist()
    assert [(row["example_id"], row["review_id"]) for row in table if row["review_id"]] == [("e00007", "r7")]


def test_what_a_teacher_made_up_does_not_teach_unless_a_person_approved_it() -> None:
    from services.trainer.dataset import grounded
    from stillhouse.quality.grounding import Catalogue

    rows = [
        {"input": "the room has 12 chairs", "output": "12 chairs", "provenance": "teacher"},
        {"input": "the room has 12 chairs", "output": "14 chairs", "provenance": "teacher"},
        {"input": "the room has 12 chairs", "output": "14 chairs", "provenance": "human"},
        {"input": "where is it?", "output": "It is at the Grand Plaza", "provenance": "teacher"},
    ]
    assert grounded(rows, None) == [rows[0], rows[2]]
    assert grounded(rows, Catalogue(["Grand Plaza"])) == [rows[0], rows[2], rows[3]]
