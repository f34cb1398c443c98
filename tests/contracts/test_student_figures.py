"""The figures of the `student` benchmark: what its bootstrap and its test of pairs say of made-up answers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import rerank
from tests.benchmarks.student import CLOSE, FAST, System, _claims, bootstrap, compared, mcnemar, timed

TEXTS = 400


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch) -> None:
    monkeypatch.setattr("tests.benchmarks.student.DRAWS", 2000)
    monkeypatch.setattr("tests.benchmarks.rerank.DRAWS", 2000)


def test_the_bootstrap_draws_the_same_texts_for_all() -> None:
    hits = np.random.default_rng(1).random((1, TEXTS)) < 0.8
    drawn = bootstrap({"a": hits, "b": hits, "c": ~hits})
    np.testing.assert_allclose(drawn["a"], drawn["b"])
    np.testing.assert_allclose(drawn["a"] + drawn["c"], 1.0, atol=1e-6)
    # The spread is that of a share.
    share = hits.mean()
    assert drawn["a"].std() == pytest.approx(np.sqrt(share * (1 - share) / TEXTS), rel=0.1)


def test_seeds_that_differ_widen_an_interval() -> None:
    same = np.repeat(np.random.default_rng(1).random((1, TEXTS)) < 0.8, 5, axis=0)
    apart = same.copy()
    apart[0] = False
    drawn = bootstrap({"same": same, "apart": apart})
    assert drawn["apart"].std() > 3 * drawn["same"].std()


def test_a_difference_is_paired_and_the_share_is_of_the_teacher() -> None:
    random = np.random.default_rng(2)
    peer = random.random((1, TEXTS)) < 0.7
    better = np.repeat(peer | (random.random((1, TEXTS)) < 0.2), 3, axis=0)
    everything = np.ones((1, TEXTS), dtype=np.bool_)
    found = compared(
        {"teacher": everything, "student": better, "peer": peer}, {"teacher": peer, "student": better, "peer": peer}
    )
    less = found["student"]["less"]["peer"]
    assert less["difference"] == pytest.approx(better.mean() - peer.mean())
    assert 0 < less["interval"][0] < less["difference"] < less["interval"][1]
    assert len(less["mcnemar_p_of_seeds"]) == 3
    assert found["student"]["share_of_teacher"] == pytest.approx(better.mean() / peer.mean())
    assert found["peer"]["share_of_teacher_interval"] == [1.0, 1.0]
    assert "agreement_std" not in found["peer"]


def test_claims_are_of_all_texts_and_of_those_in_scope() -> None:
    share = {"share_of_teacher": 0.97, "share_of_teacher_interval": [0.96, 0.98]}
    within = {"share_of_teacher": 0.99, "share_of_teacher_interval": [0.985, 0.995]}
    fast = {"times_cheaper_than_teacher": 22.0, "times_cheaper_range": [21.0, 23.0], "less_peers": {}}
    said = _claims({FAST: fast, CLOSE: {**share, "in_scope": within}})
    assert "97.0 % (96.0–98.0) of its accuracy. That it keeps at least 98 % is not shown." in said
    assert "99.0 % (98.5–99.5) of that in scope. That it keeps at least 98 % is shown." in said


def test_mcnemar_is_the_exact_test_of_what_only_one_has() -> None:
    ours = np.array([True] * 5 + [False] * 3)
    theirs = np.array([False] * 5 + [False] * 3)
    assert mcnemar(ours, theirs) == pytest.approx(2 / 2**5)
    assert mcnemar(ours, ours) == 1.0


def test_all_systems_are_timed_in_turn() -> None:
    asked: list[str] = []

    def system(name: str, cost: float) -> System:
        def ask(texts):
            asked.append(name)
            return ["x"] * len(texts), cost * len(texts), 2 * cost * len(texts)

        return System(ask, 32, np.array([["x"]]), {})

    found = timed({"teacher": system("t", 0.01), "student": system("s", 0.001)}, ["text"] * 80, 2)
    assert found["student"]["times_cheaper_than_teacher"] == pytest.approx(10.0)
    assert found["student"]["texts_per_cpu_s"] == pytest.approx(1000.0)
    assert found["student"]["p50_ms_batch1"] == pytest.approx(2.0)
    assert "".join(asked).replace("tt", "t").count("ts") >= 2


def test_the_bootstrap_of_rankings_draws_the_same_queries_at_each_call() -> None:
    values = np.random.default_rng(3).random((1, 50))
    drawn = rerank.bootstrap(values)
    np.testing.assert_allclose(rerank.bootstrap(np.repeat(values, 4, axis=0)), drawn)
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)
