"""Confidence: what the signals are, and that every kind is a number in [0, 1] that follows from the answer alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stillhouse.models.confidence import Confidence, signals, written_signals
from stillhouse.models.student import softmax

LOGITS = arrays(np.float32, st.integers(2, 12), elements=st.floats(-200, 200, width=32))


def test_signals_are_log_odds_log_ratio_and_energy() -> None:
    logits = np.log(np.array([0.7, 0.2, 0.1], dtype=np.float32))
    assert signals(logits, 1.0) == pytest.approx([np.log(0.7 / 0.3), np.log(0.7 / 0.2), 0.0], abs=1e-6)
    assert signals(logits + 3, 1.0)[2] == pytest.approx(3, abs=1e-6)


def test_distances_are_to_the_answers_centroid_and_to_the_next() -> None:
    centroids = np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32)
    found = signals(np.array([2, 1, 0], dtype=np.float32), 1.0, np.array([3, 4], dtype=np.float32), centroids)
    assert found[3:] == pytest.approx([1 - 0.6, (1 - 0.8) - (1 - 0.6)])


def test_margin_is_the_largest_less_the_second() -> None:
    assert Confidence("margin").of(np.array([0.2, 0.7, 0.1])) == pytest.approx(0.5)


@given(LOGITS, st.sampled_from(["max_probability", "margin", "learned"]))
def test_it_is_a_probability_and_always_the_same(logits: np.ndarray, kind: str) -> None:
    learned = {"weights": (1.0, -2.0, 0.5), "centre": (0.0, 1.0, 2.0), "scale": (1.0, 2.0, 3.0), "bias": 0.1}
    confidence = Confidence.read({"kind": kind} | (learned if kind == "learned" else {}))
    said = [confidence.of(softmax(logits), signals(logits, 1.0)) for _ in range(2)]
    assert said[0] == said[1]
    assert 0.0 <= said[0] <= 1.0


@pytest.mark.parametrize("raw", [{"kind": "hunch"}, {"kind": "learned", "scale": [0.0]}, {"weights": ["x"]}])
def test_what_cannot_be_used_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"range|could not convert"):
        Confidence.read(raw)


def test_the_confidence_of_what_is_written_falls_with_its_least_certain_token() -> None:
    sure, unsure = ([-0.01] * 20, [6.0] * 20), ([-0.01] * 19 + [-1.2], [6.0] * 19 + [-0.3])
    for kind in ("max_probability", "margin"):
        confidence = Confidence(kind)
        assert 0.0 < confidence.of_written(*unsure) < confidence.of_written(*sure) <= 1.0
        assert confidence.of_written((), ()) == 0.0
    assert Confidence().of_written([-0.5, -1.5], [1.0, 1.0]) == pytest.approx(math.exp(-1.0))


def test_signals_of_what_is_written_are_finite_whatever_a_model_says() -> None:
    assert np.isfinite(written_signals([-1e9, 0.0], [float("inf"), -float("inf")])).all()
    assert written_signals([-1.0, -3.0], [2.0, 4.0]).tolist() == pytest.approx(
        [-2.0, -4.0, -3.0, 2.0, 3.0, math.log(2)]
    )


def test_answers_that_say_the_same_in_other_words_of_json_count_as_the_same() -> None:
    confidence = Confidence("self_consistency")
    samples = ['{"b": 2, "a": 1}', '{"a": 1, "b": 2}', '{"a": 1}', "no JSON"]
    assert confidence.of_samples('{"a":1,"b":2}', samples, [0.0]) == pytest.approx((2 + 1) / 5)
    assert confidence.of_samples("It is FINE", ["it is  fine", "no"], [math.log(0.5)]) == pytest.approx((1 + 0.5) / 3)
    assert confidence.of_samples("x", [], []) == 0.0
    # Among answers that the same share agrees with, the likelier one is surer.
    assert confidence.of_samples("x", ["x"], [-0.1]) > confidence.of_samples("x", ["x"], [-0.2])


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=6), st.lists(st.floats(-9, 0), max_size=5))
def test_self_consistency_is_a_probability(output: str, samples: list[str], log_probs: list[float]) -> None:
    assert 0.0 <= Confidence("self_consistency").of_samples(output, samples, log_probs) <= 1.0
