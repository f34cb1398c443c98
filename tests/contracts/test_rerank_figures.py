"""The figures of the `rerank` benchmark, and that it reads lists of any file."""

from __future__ import annotations

import json
import math

import pytest

from tests.benchmarks.rerank import ndcg_at, reciprocal_rank
from tests.benchmarks.rerank_data import Measured, load_lists


def test_ndcg_and_reciprocal_rank_are_the_textbooks() -> None:
    relevance, scores = [0.0, 2.0, 1.0], [3.0, 1.0, 2.0]  # the order is 0, 2, 1
    expected = (1 / math.log2(3) + 3 / math.log2(4)) / (3 / math.log2(2) + 1 / math.log2(3))
    assert ndcg_at(10, relevance, scores) == pytest.approx(expected)
    assert ndcg_at(1, relevance, scores) == 0.0
    assert ndcg_at(10, relevance, [0.0, 2.0, 1.0]) == 1.0
    assert ndcg_at(10, [0.0, 0.0], [1.0, 2.0]) == 0.0
    assert reciprocal_rank(relevance, scores) == 0.5
    assert reciprocal_rank([0.0], [1.0]) == 0.0


def test_a_file_of_rows_is_split_by_query_and_one_without_lists_ends_the_program(tmp_path) -> None:
    rows = [
        {
            "query_id": f"q{n // 3}",
            "query": f"query {n // 3}",
            "doc_id": f"d{n}",
            "doc": f"text {n}",
            "relevance": n % 3,
        }
        for n in range(60)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    lists = load_lists(path)
    assert (len(lists.train), len(lists.select), len(lists.test), lists.unjudged) == (12, 2, 6, [])
    assert lists.train[0].relevance == (0.0, 1.0, 2.0)
    assert len({one.query for part in (lists.train, lists.select, lists.test) for one in part}) == 20
    path.write_text('{"query_id": 1}')
    with pytest.raises(SystemExit, match="every row needs query_id"):
        load_lists(path)
    path.write_text("")
    with pytest.raises(SystemExit, match="no lists to take for train"):
        load_lists(path)


def test_a_chunk_that_was_measured_is_not_measured_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.benchmarks.rerank_data.FOLDER", tmp_path)
    first = Measured(["a"], [])
    assert first.get(0) is None
    first.put(0, {"bm25": [[[1.0], 0.1, 0.2]]})
    assert Measured(["a"], []).get(0) == {"bm25": [[[1.0], 0.1, 0.2]]}
    assert Measured(["b"], []).get(0) is None
