"""Comparators: what counts as the same, what scores how much, and what the calibrated threshold promises."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import f1_score, ndcg_score

from stillhouse.tasks.comparators import Exact, comparator_of, comparison_of
from stillhouse.tasks.comparators.fields import flat
from stillhouse.tasks.comparators.items import f1, items_of, kendall, ndcg
from stillhouse.tasks.comparators.settings import Embedding, JsonFields, Numeric, Own, Ranking, SetF1
from stillhouse.tasks.comparators.similarity import similarity_score
from tests.unit.validator.audits import make_task

texts = st.text(max_size=12)
orders = st.permutations(list("abcdefgh")).map(list)


def half(student: str, teacher: str) -> float:
    return 0.5 if student[:1] == teacher[:1] else 0.0


def too_much(student: str, teacher: str) -> float:
    return 7.0


SETTINGS = [
    Exact(),
    JsonFields(kind="json"),
    Numeric(kind="numeric"),
    SetF1(kind="set"),
    Ranking(kind="ranking"),
    Ranking(kind="ranking", metric="kendall"),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: f"{one.kind} {getattr(one, 'metric', '')}")
@given(texts, texts)
@settings(max_examples=40)
def test_scores_are_shares_and_an_answer_is_like_itself(setting, student: str, teacher: str) -> None:
    compare = comparison_of(setting)
    assert 0.0 <= compare.score(student, teacher) <= 1.0
    assert compare.same(student, student)


@pytest.mark.parametrize("said", ["NaN", "nan", "-Infinity", "inf", "1e999", '{"a": NaN}', "[NaN]"])
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: f"{one.kind} {getattr(one, 'metric', '')}")
def test_what_is_no_number_is_like_itself(setting, said: str) -> None:
    assert comparison_of(setting).same(said, said)


def test_labels_are_compared_exactly_by_default() -> None:
    compare = comparator_of(make_task())
    assert compare.same("a", "a")
    assert not compare.same("a", "A")


def test_json_is_compared_by_field() -> None:
    a = json.dumps({"name": "Ada", "price": 10.0, "tags": ["x", "y"], "open": True})
    b = json.dumps({"open": True, "tags": ["x", "z"], "price": 10.05, "name": "Ada"})
    assert comparison_of(JsonFields(kind="json")).score(a, b) == pytest.approx(3 / 5)
    assert comparison_of(JsonFields(kind="json", tolerance=0.01)).score(a, b) == pytest.approx(4 / 5)
    named = JsonFields(kind="json", fields=("name", "tags", "missing"))
    assert comparison_of(named).score(a, b) == pytest.approx(2 / 3)
    assert comparison_of(JsonFields(kind="json", at_least=0.6)).same(a, b)
    whole = comparison_of(JsonFields(kind="json"))
    assert not whole.same("1", "true")
    assert not whole.same('{"a": 1}', "not json")
    assert whole.same("not json", "not json")
    assert not whole.same("{}", '{"a": null}')


@given(st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_flat_keeps_every_leaf(value) -> None:
    def leaves(one) -> int:
        if isinstance(one, dict | list) and one:
            return sum(map(leaves, one.values() if isinstance(one, dict) else one))
        return 1

    assert len(flat(value)) <= leaves(value)  # keys with dots may meet
    assert all(not isinstance(leaf, dict | list) or not leaf for leaf in flat(value).values())


def test_numbers_are_equal_within_a_tolerance() -> None:
    compare = comparison_of(Numeric(kind="numeric", absolute=0.5, relative=0.01))
    assert compare.same("1000", "1009.9")
    assert compare.same("0.2", "0.6")
    assert not compare.same("1000", "1011")
    assert compare.same("nan", " nan")
    assert not compare.same("nan", "1")
    assert compare.same("about ten", " about ten")
    assert not compare.same("10", "about ten")
    assert comparison_of(Numeric(kind="numeric")).same("inf", "inf")


@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
def test_f1_of_sets_is_that_of_scikit_learn(ours: set[str], theirs: set[str]) -> None:
    truth, said = [one in theirs for one in "abcdef"], [one in ours for one in "abcdef"]
    expected = f1_score(truth, said, zero_division=1.0)
    assert f1(",".join(sorted(ours)), json.dumps(sorted(theirs))) == pytest.approx(expected)


def test_items_are_read_from_lists_and_commas() -> None:
    assert items_of('["b", "a", "b", 3]') == ["b", "a", "3"]
    assert items_of(" b , a,, b ") == ["b", "a"]
    assert items_of("7") == ["7"]


@given(orders, orders, st.sampled_from([None, 3, 8]))
def test_rankings_are_those_of_scipy_and_scikit_learn(ours: list[str], theirs: list[str], k: int | None) -> None:
    gains = [[float(len(theirs) - theirs.index(item)) for item in sorted(ours)]]
    scores = [[float(len(ours) - ours.index(item)) for item in sorted(ours)]]
    assert ndcg(ours, theirs, k) == pytest.approx(ndcg_score(gains, scores, k=k))
    tau = kendalltau([ours.index(x) for x in theirs], range(len(theirs))).statistic
    assert kendall(ours, theirs) == pytest.approx((tau + 1) / 2)


def test_items_that_one_side_lacks() -> None:
    assert ndcg(["x", "y"], ["a", "b"], None) == 0.0
    assert ndcg(["a"], ["a", "b"], None) < 1.0
    assert kendall([], ["a", "b", "c"]) == 0.5
    assert kendall(["a"], ["a"]) == 1.0
    assert kendall(["c", "b", "a"], ["a", "b", "c"]) == 0.0


def test_a_function_of_ones_own() -> None:
    compare = comparison_of(Own(kind="callable", function=f"{__name__}:half", at_least=0.5))
    assert compare.same("abc", "axe")
    assert not compare.same("abc", "bc")
    with pytest.raises(ValueError, match="gave 7"):
        comparison_of(Own(kind="callable", function=f"{__name__}:too_much")).same("a", "b")
    for missing in ("no_such_module_at_all:f", "json:no_such_function"):
        with pytest.raises(ValueError, match="cannot be imported"):
            comparison_of(Own(kind="callable", function=missing))


def encode(said):
    """A stand-in encoder: a text is its number, as an angle."""
    angles = np.array([float(text) for text in said])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def pairs_file(folder, n: int, seed: int, slope: float = 3.0):
    """Pairs at a random angle; the nearer, the likelier the same."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, 1.2, n)
    same = rng.random(n) < np.exp(-slope * angles**2)
    path = folder / f"pairs-{seed}.jsonl"
    rows = ({"a": "0", "b": str(angle), "same": bool(yes)} for angle, yes in zip(angles, same, strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_calibrated_threshold_calls_few_different_pairs_the_same(tmp_path) -> None:
    grid = np.linspace(0, 1.2, 20_001)
    delta, draws, broken = 0.1, 60, 0
    for seed in range(draws):
        setting = Embedding(kind="embedding", pairs=pairs_file(tmp_path, 300, seed), epsilon=0.05, delta=delta)
        _, threshold = similarity_score(setting, encode)
        # P(called the same and different) over angles uniform on [0, 1.2].
        risk = np.mean((np.cos(grid) >= threshold) * (1 - np.exp(-3.0 * grid**2)))
        broken += risk > 0.05
    assert broken <= delta * draws + 3 * math.sqrt(delta * (1 - delta) * draws)


def test_pairs_that_certify_nothing_are_refused(tmp_path) -> None:
    few = Embedding(kind="embedding", pairs=pairs_file(tmp_path, 10, 1))
    with pytest.raises(ValueError, match="label more pairs"):
        similarity_score(few, encode)
    with pytest.raises(ValueError, match="home folder"):
        comparison_of(few)
