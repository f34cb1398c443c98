"""Committed benchmark results have the agreed shape, and the page says what they say."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.benchmarks import page
from tests.benchmarks.__main__ import NAMES, SHORT
from tests.benchmarks.meta import ROOT

RESULTS = page.read()
META = {"machine", "commit", "versions", "repeats", "started_at"}
OVERHEAD = {"cpu_ms_per_request", "p50_ms", "p99_ms", "max_rps"}
OF_BUS = {"bus": "kafka", "edge": "edge"}  # two files of one benchmark, and where their systems are
OF_PROGRAMS = {"examples"}  # what two programs say of themselves; there are no systems to compare
# What a script that compares systems finds in every object of the file, and the systems that must be there.
SHAPES: dict[str, tuple[set[str], set[str]]] = {
    "cascade": (
        {"coverage_at_95", "agreement_at_95", "escalation_at_97", "agreement_at_97", "promise_broken_rate", "n_test"},
        {"stillhouse", "embedding_lr", "empirical", "mapie_ltt", "tracer"},
    ),
    "gate": (
        {"false_promotion_rate", "median_cases"},
        {"stillhouse", "fixed_n", "wilson_peeking", "fixed_20"},
    ),
    "drift": ({"median_delay", "false_alarm_rate"}, {"stillhouse", "adwin", "page_hinkley"}),
    "student": (
        {"texts_per_cpu_s", "p50_ms_batch1", "bytes", "agreement", "accuracy"},
        {"teacher", "stillhouse_hashed_ngrams", "tfidf_lr"},
    ),
    "rerank": ({"ndcg_at_10", "mrr", "lists_per_cpu_s"}, {"teacher", "bm25", "stillhouse_bi_encoder"}),
    "methods": (
        {"metric", "mean", "std", "seeds", "hard_label_baseline_mean", "difference_ci"},
        {"hard_labels", "soft_targets", "dkd", "rkd", "hidden_mse", "minilm"},
    ),
    "losses": (
        {"value_difference", "gradient_difference", "cpu_ms", "peer_cpu_ms", "times_as_fast"},
        {"stillhouse_soft_targets", "stillhouse_rkd"},
    ),
    "embeddings": (
        {"texts_per_cpu_s", "bytes", "nearest_label", "rank_correlation"},
        {"teacher", "stillhouse_static", "stillhouse_cut3"},
    ),
    "schemes": (
        {"metric", "mean", "std", "seeds", "hard_label_baseline_mean", "difference_ci", "accuracy", "against"},
        {
            *("hard", "direct", "mutual", "born_again", "curriculum", "token_dropout", "mixup"),
            *("five_teachers_averaged", "asked_by_badge", "second_half_replay_and_kl", "deep3_4_bits_qat"),
            *("yes_or_no_distilled", "tags_distilled", "score_of_teacher"),
        },
    ),
    "export": (
        {"bytes", "agreement_with_torch", "max_abs_logit_difference", "n_compared", "not_verified"},
        {"stillhouse_onnx", "stillhouse_web", "stillhouse_litert_int8", "stillhouse_executorch_int8"},
    ),
    "design": (
        {"ms_predicted", "ms", "bytes_predicted", "bytes", "agreement_predicted", "agreement"},
        {"stillhouse_cut2", "stillhouse_cut3"},
    ),
    "tuning": ({"tokens_per_s", "times_trl", "cpu_s_per_1k_tokens", "loss"}, {"stillhouse", "trl"}),
    "methods_writing": (
        {"metric", "mean", "std", "seeds", "hard_label_baseline_mean", "difference_ci"},
        {"hard", "forward_kl", "skew_reverse_kl", "top_k", "on_policy", "minillm", "width", "rounding_aware"},
    ),
    "serving": (
        {"tokens_per_cpu_s", "tokens_per_s", "p50_s_alone", "bytes", "agreement", "failed"},
        {"stillhouse_fp32", "stillhouse_w8a8", "stillhouse_few_shot"},
    ),
    "replies": ({"ungrounded", "wrong", "claims", "word_f1"}, {"teacher", "stillhouse_few_shot", "stillhouse_lora"}),
    "loop": ({"times_cheaper_per_call", "net_saving_share"}, {"stillhouse", "seed_bar"}),
    "recovery": (
        {"kills", "sent", "lost_in_silence", "duplicated_effects", "first_answer_s", "ready_s"},
        {"stillhouse_router", "stillhouse_broker", "stillhouse_redis"},
    ),
}


def systems(name: str) -> dict[str, dict[str, Any]]:
    """The objects of a result file that stand for one system each."""
    result = RESULTS[name]
    if name in OF_BUS:
        return result[OF_BUS[name]]  # type: ignore[no-any-return]
    wanted = SHAPES[name][1]
    return {key: value for key, value in result.items() if key in wanted or key.startswith("stillhouse")}


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_a_result_says_where_and_of_what_it_is(name) -> None:
    assert name in NAMES
    of = RESULTS[name]["meta"]
    assert of.keys() >= META
    assert of["quick"] is False
    assert not of["commit"].endswith("-dirty")
    assert of["machine"]["cpu"]
    assert of["versions"]["python"]


@pytest.mark.parametrize("name", sorted(RESULTS.keys() - OF_BUS - OF_PROGRAMS))
def test_a_result_has_the_agreed_figures_for_every_system(name) -> None:
    figures, wanted = SHAPES[name]
    found = systems(name)
    assert found.keys() >= wanted
    for of in found.values():
        assert of.keys() >= figures


@pytest.mark.skipif("bus" not in RESULTS, reason="no committed result of bus")
def test_the_result_of_bus_has_the_router_and_its_floor() -> None:
    found = systems("bus")
    assert found.keys() >= {"stillhouse", "aiokafka_floor"}
    assert all(of.keys() >= OVERHEAD for of in found.values())


@pytest.mark.skipif("edge" not in RESULTS, reason="no committed result of edge")
def test_the_result_of_edge_has_the_gateways_and_the_model_alone() -> None:
    found = systems("edge")
    assert found.keys() >= {"stillhouse", "stillhouse_all_services", "litellm", "tensorzero", "upstream_alone"}
    assert all(of.keys() >= OVERHEAD for of in found.values())


def test_the_page_says_what_the_result_files_say() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.text(RESULTS), "`python -m tests.benchmarks --page` writes it"


def test_every_benchmark_that_the_page_knows_can_be_run() -> None:
    assert set(page.ORDER) == set(page.QUESTIONS) == set(NAMES)
    assert set(SHORT) < set(NAMES)
    for name in NAMES:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        assert callable(module.run)
        assert callable(module.show)


def test_make_bench_hands_everything_on() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = text.split("\nbench:", 1)[1].split("\n\n", 1)[0]
    assert all(f"$({name})" in recipe for name in ("NAME", "QUICK", "DATA", "OUT", "REPORT"))


@pytest.mark.skipif("examples" not in RESULTS, reason="no committed result of examples")
def test_the_result_of_examples_says_that_the_large_teacher_is_random() -> None:
    large = RESULTS["examples"]["bert_large_to_mobile"]
    assert large["teacher_weights"].startswith("random")
    assert 330 < large["teacher"]["mb_int8"] < 350
    assert len(RESULTS["examples"]["five_to_one"]) == RESULTS["examples"]["meta"]["repeats"]
