"""Predictions that must hold in closed form, and what is recommended from known costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillhouse.distill.architecture.cost_model import CostModel, features, fit
from stillhouse.distill.architecture.counting import EncoderShape, matrix_flops, weight_bytes
from stillhouse.distill.architecture.design import Limits, design, grid
from stillhouse.distill.architecture.plots import Dot, bars, scatter, write_page
from stillhouse.distill.architecture.quality import Trained, learning_curve, over_operations, train_on_sample
from stillhouse.models.port import ModelError

TEACHER = EncoderShape(6, 384, 1536, 12, labels=3)
TRUE = CostModel(np.array([0.1, 0.002, 0.004, 0.03, 0.5]), 0.0)
SHAPES = [
    EncoderShape(layers, width, 4 * width, width // 32, vocabulary=100)
    for layers, width in ((1, 64), (2, 64), (3, 128), (1, 256), (2, 384), (4, 96))
]
CURVES = [
    Trained(layers, texts, 500, agreement, 1.0)
    for layers, texts, agreement in ((2, 100, 0.80), (2, 400, 0.90), (3, 100, 0.84), (3, 400, 0.92))
]


def true_ms(shape: EncoderShape, length: int) -> float:
    return TRUE.predict(shape, length)


def test_the_fit_finds_the_costs_that_made_the_times() -> None:
    measured = [(shape, length, true_ms(shape, length)) for shape in SHAPES for length in (4, 32, 128)]
    found = fit(measured)
    np.testing.assert_allclose(found.coefficients, TRUE.coefficients, rtol=1e-6)
    assert found.error < 1e-6
    assert found.predict(TEACHER, 64) == pytest.approx(true_ms(TEACHER, 64))


def test_costs_are_never_negative_and_too_few_are_refused() -> None:
    random = np.random.default_rng(0)
    measured = [(one, n, true_ms(one, n) * random.uniform(0.5, 2)) for one in SHAPES for n in (4, 32)]
    assert (fit(measured).coefficients >= 0).all()
    with pytest.raises(ModelError, match="5 measured latencies"):
        fit(measured[:5])


def test_work_grows_with_what_makes_it() -> None:
    one, two = features(TEACHER, 32), features(replace(TEACHER, layers=12), 32)
    head = 2 * 384 * 3 / 1e6
    assert two[2] - head == pytest.approx(2 * (one[2] - head))
    assert features(TEACHER, 64)[3] == pytest.approx(4 * one[3])  # attention is square in length


def test_a_learning_curve_is_a_power_law() -> None:
    curve = learning_curve([(n, 1 - 0.9 * n**-0.3) for n in (50, 100, 800)])
    assert (curve.a, curve.b) == (pytest.approx(0.9), pytest.approx(0.3))
    assert learning_curve([(100, 0.9), (200, 0.8)]).b == 0.0, "more texts never cost any"
    with pytest.raises(ModelError, match="two numbers of texts"):
        learning_curve([(100, 0.9)])
    with pytest.raises(ModelError, match="two sizes"):
        over_operations([(1e6, 0.9)], 1e6)
    assert over_operations([(1e6, 0.9), (2e6, 0.8)], 4e6) == pytest.approx(0.85)


def test_the_grid_narrows_heads_and_neurons() -> None:
    shapes = {name: (shape, trainable) for name, shape, trainable in grid(TEACHER, 7)}
    shape, trainable = shapes["3 layers, 50% of heads and neurons"]
    assert (shape.heads, shape.inner, shape.ffn, shape.width, shape.labels) == (6, 192, 768, 384, 7)
    assert trainable
    assert shapes["3 layers"][1]
    assert not shapes["1 layer"][1]


def test_only_the_front_is_measured_and_measurements_decide() -> None:
    asked: list[EncoderShape] = []

    def measure(shape: EncoderShape, length: int) -> float:
        asked.append(shape)
        return true_ms(shape, length) * (3.0 if shape.layers == 3 else 1.0)  # the prediction is wrong here

    found = design(TEACHER, "onnx", Limits(), TRUE, measure, labels=3, trained=CURVES, texts=1600)
    by_name = {one.name: one for one in found.candidates}
    assert len(asked) == len(set(asked)) == sum(one.measured_ms is not None for one in found.candidates)
    front = [one for one in found.candidates if one.on_front]
    assert all(one.measured_ms is not None for one in front)
    assert by_name["3 layers"].ms > by_name["4 layers"].ms
    assert not by_name["3 layers"].on_front
    assert by_name["2 layers"].quality == pytest.approx(0.95)
    assert found.recommended == "6 layers"


def test_limits_are_kept_and_what_misses_them_says_which() -> None:
    limits = Limits(max_latency_ms=true_ms(replace(TEACHER, layers=3), 32), min_quality=0.94)
    found = design(TEACHER, "onnx", limits, TRUE, true_ms, labels=3, trained=CURVES, texts=1600)
    assert found.recommended == "3 layers, 50% of heads and neurons"
    assert (found.method["layers"][0], found.method["width"][0]) == ("3", "0.5")
    keep = [one for one in found.candidates if one.quality is not None and one.quality >= 0.94 and one.trainable]
    assert min(keep, key=lambda one: one.ms).name == found.recommended, "the fastest that keeps the floor"
    assert next(one for one in found.candidates if one.name == "6 layers").misses == ("latency",)
    none = design(TEACHER, "executorch", Limits(max_bytes=10), TRUE, true_ms, trained=CURVES, texts=9)
    assert none.recommended is None
    assert "most miss size" in none.tradeoffs[0]
    assert none.candidates[0].bytes == weight_bytes(none.candidates[0].shape, 8, 32)


def test_without_data_quality_is_published_or_not_known() -> None:
    found = design(TEACHER, "web", Limits(min_quality=0.9), TRUE, true_ms)
    by_name = {one.name: one for one in found.candidates}
    assert (by_name["3 layers"].quality, by_name["3 layers"].basis) == (0.97, "published")
    assert by_name["4 layers"].misses == ("quality (not known)",)
    assert any("web device has its own" in one for one in found.tradeoffs)
    with pytest.raises(ModelError, match="no target 'phone'"):
        design(TEACHER, "phone", Limits(), TRUE, true_ms)
    with pytest.raises(ModelError, match="needs 60 or more"):
        train_on_sample([], (2,))


def test_the_page_is_one_file_with_every_name(tmp_path) -> None:
    chart = scatter("s", [Dot("a & b", 1.0, 0.5, True), Dot("c", 10.0, 0.9, False)], "ms", "agreement")
    write_page(tmp_path / "new" / "page.html", "T", [chart, bars("b", [("m", "mlp", 2.0)], "ms"), "Words."])
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "a &amp; b" in page
    assert page.count("<svg") == 2
    assert "<p>Words.</p>" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "nothing to show" in scatter("s", [], "x", "y")
    assert matrix_flops(TEACHER, 1) > 0
