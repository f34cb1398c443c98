"""Predictions that must hold in closed form, and what is recommended from known costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stillhouse.distill.architecture import footprint
from stillhouse.distill.architecture.cost_model import CostModel, features, fit
from stillhouse.distill.architecture.counting import EncoderShape, matrix_flops, weight_bytes
from stillhouse.distill.architecture.design import Limits, design, grid
from stillhouse.distill.architecture.encoder_graph import Cost, cost_of
from stillhouse.distill.architecture.plots import Dot, bars, scatter, write_page
from stillhouse.distill.architecture.quality import Trained, learning_curve, over_operations, train_on_sample
from stillhouse.distill.architecture.small_students import SmallStudent, train_small
from stillhouse.models.port import ModelError
from tests.unit.distill.toy import texts

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


SMALL = SmallStudent(
    "hashed_ngrams",
    parameters=1000,
    bytes=4000,
    memory_bytes=9000,
    flops=500,
    ms=0.05,
    trained=(Trained(0, 100, 500, 0.70, 1.0, "hashed_ngrams"), Trained(0, 400, 500, 0.85, 1.0, "hashed_ngrams")),
)


def true_ms(shape: EncoderShape, length: int) -> float:
    return TRUE.predict(shape, length)


def true_cost(shape: EncoderShape, length: int) -> Cost:
    return Cost(true_ms(shape, length), 7)


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

    def measure(shape: EncoderShape, length: int) -> Cost:
        asked.append(shape)
        return Cost(true_ms(shape, length) * (3.0 if shape.layers == 3 else 1.0), 7)  # the prediction is wrong here

    found = design(TEACHER, "onnx", Limits(), TRUE, measure, labels=3, trained=CURVES, texts=1600)
    by_name = {one.name: one for one in found.candidates}
    assert len(asked) == len(set(asked)) == sum(one.measured_ms is not None for one in found.candidates)
    front = [one for one in found.candidates if one.on_front]
    assert all(one.measured_ms is not None and one.measured_memory_bytes == 7 for one in front)
    assert by_name["3 layers"].ms > by_name["4 layers"].ms
    assert not by_name["3 layers"].on_front
    assert by_name["2 layers"].quality == pytest.approx(0.95)
    assert found.recommended == "6 layers"


def test_limits_are_kept_and_what_misses_them_says_which() -> None:
    limits = Limits(max_latency_ms=true_ms(replace(TEACHER, layers=3), 32), min_quality=0.94)
    found = design(TEACHER, "onnx", limits, TRUE, true_cost, labels=3, trained=CURVES, texts=1600)
    assert found.recommended == "3 layers, 50% of heads and neurons"
    assert (found.method["layers"][0], found.method["width"][0]) == ("3", "0.5")
    keep = [one for one in found.candidates if one.quality is not None and one.quality >= 0.94 and one.trainable]
    assert min(keep, key=lambda one: one.ms).name == found.recommended, "the fastest that keeps the floor"
    assert next(one for one in found.candidates if one.name == "6 layers").misses == ("latency",)
    none = design(TEACHER, "executorch", Limits(max_bytes=10), TRUE, true_cost, trained=CURVES, texts=9)
    assert none.recommended is None
    assert "most miss size" in none.tradeoffs[0]
    first = none.candidates[0]
    assert first.shape is not None
    assert first.bytes == weight_bytes(first.shape, 8, 32)


def test_without_data_quality_is_published_or_not_known() -> None:
    found = design(TEACHER, "web", Limits(min_quality=0.9), TRUE, true_cost)
    by_name = {one.name: one for one in found.candidates}
    assert (by_name["3 layers"].quality, by_name["3 layers"].basis) == (0.97, "published")
    fast = design(TEACHER, "web", Limits(max_latency_ms=true_ms(replace(TEACHER, layers=3), 32)), TRUE, true_cost)
    assert fast.tradeoffs[0].startswith("3 layers: ")
    assert "times faster than 6 layers, and 1.3 times smaller" in fast.tradeoffs[0]
    assert by_name["4 layers"].misses == ("quality (not known)",)
    assert any("web device has its own" in one for one in found.tradeoffs)
    with pytest.raises(ModelError, match="no target 'phone'"):
        design(TEACHER, "phone", Limits(), TRUE, true_cost)
    with pytest.raises(ModelError, match="needs 60 or more"):
        train_on_sample([], (2,))


def test_a_small_student_stands_on_the_front_as_it_was_measured() -> None:
    found = design(TEACHER, "onnx", Limits(), TRUE, true_cost, labels=3, trained=CURVES, texts=1600, small=[SMALL])
    fastest = found.candidates[0]
    assert (fastest.name, fastest.architecture, fastest.ms) == ("hashed n-grams", "hashed_ngrams", 0.05)
    assert fastest.on_front
    assert fastest.trainable
    assert fastest.quality == pytest.approx(0.925)
    assert (fastest.measured_memory_bytes, fastest.bytes) == (9000, 4000)
    assert len(found.trained) == len(CURVES) + 2
    limits = Limits(max_bytes=5000)
    chosen = design(TEACHER, "onnx", limits, TRUE, true_cost, labels=3, trained=CURVES, texts=1600, small=[SMALL])
    assert chosen.recommended == "hashed n-grams"
    assert "objectives were compared on encoders" in chosen.method["temperature"][1]


def test_the_method_is_the_best_one_that_the_texts_allow() -> None:
    soft = design(TEACHER, "onnx", Limits(), TRUE, true_cost, trained=CURVES, texts=1600)
    assert soft.method["distill"][0] == "hard_labels (weight 0.1) + standardised_logits (weight 9)"
    assert "+10.8 points" in soft.method["distill"][1]
    assert "dkd" in soft.method["next best distill"][0]
    hard = design(TEACHER, "onnx", Limits(), TRUE, true_cost, trained=CURVES, texts=1600, soft=False)
    assert hard.method["distill"][0] == "hard_labels (weight 1, smoothing 0.1)"


def test_another_teacher_gets_no_curves_and_nothing_that_cannot_be_trained() -> None:
    other = EncoderShape(24, 1024, 4096, 16)
    alone = design(other, "onnx", Limits(), TRUE, true_cost, cuttable=False)
    assert not any(one.trainable for one in alone.candidates)
    assert {one.basis for one in alone.candidates} == {"published", "none"}
    assert alone.recommended is None
    assert alone.method == {}
    assert "[[student]] cuts minilm alone" in alone.tradeoffs[0]
    found = design(
        other,
        "onnx",
        Limits(),
        TRUE,
        true_cost,
        labels=3,
        trained=CURVES,
        texts=1600,
        small=[SMALL],
        cuttable=False,
        own=TEACHER,
    )
    known = {one.name for one in found.candidates if one.basis == "curves"}
    assert known == {one.name for one in found.candidates if one.name.startswith("minilm, ")} | {"hashed n-grams"}
    assert {one.name for one in found.candidates if one.on_front} <= known
    assert found.recommended == "minilm, 6 layers"
    assert any(one.startswith("minilm, 6 layers: ") and "the largest of these" in one for one in found.tradeoffs)
    assert found.method["layers"][0] == "6"
    same = design(TEACHER, "onnx", Limits(), TRUE, true_cost, labels=3, trained=CURVES, texts=1600)
    of_own = {one.name: one.quality for one in same.candidates}
    assert {name.removeprefix("minilm, ") for name in known} - {"hashed n-grams"} == set(of_own)


def test_small_students_are_trained_exported_and_measured() -> None:
    heard: list[Trained] = []
    (one,) = train_small(texts(200), architectures=["hashed_ngrams"], sample=120, length=8, on_done=heard.append)
    assert [point.texts for point in one.trained] == [48, 96]
    assert list(one.trained) == heard
    assert one.trained[-1].judged == 50
    assert one.agreement(96) > 0.9
    assert 0 < one.ms < 50
    assert one.parameters > 0
    assert one.flops > 0
    assert one.bytes > one.parameters  # int8 tables, float32 head
    assert one.memory_bytes is None or one.memory_bytes > one.bytes / 2
    with pytest.raises(ModelError, match="2 labels or more"):
        train_small([replace(row, label="order") for row in texts(80)], architectures=["hashed_ngrams"])


def test_memory_is_the_peak_of_a_process_that_holds_the_graph() -> None:
    if not footprint.STATUS.exists():
        pytest.skip("peak memory is read from /proc, which this system lacks")
    small, large = (EncoderShape(1, 64, 64, 4, vocabulary=rows, labels=3) for rows in (1000, 200_000))
    of_small, of_large = (cost_of(shape, 8, repeats=2) for shape in (small, large))
    assert of_small.ms > 0
    assert of_small.memory_bytes is not None
    assert of_large.memory_bytes is not None
    assert of_large.memory_bytes - of_small.memory_bytes > 0.8 * 199_000 * 64
    assert footprint.memory_of(Path("nowhere.onnx"), 4) is None


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
