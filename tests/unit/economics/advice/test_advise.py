"""Advice: what each measurement sees in tasks that are known, and what is recommended for which reasons."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.economics.advice import Case, Circumstances, advise
from stillhouse.economics.advice.form import form_of
from stillhouse.economics.advice.probe import probe
from stillhouse.economics.advice.repetition import novelty, repetition
from tests.unit.economics.advice.texts import FILL, classify, slots, stories, text_of


def test_repeats_are_counted_exactly_and_nearly() -> None:
    rng = random.Random(1)
    fresh = [" ".join(rng.sample(FILL, 12)) for _ in range(400)]
    again = [text.upper() + "!" for text in fresh[:50]]
    nearly = [text[:-1] + "z" for text in fresh[50:150]]
    found = repetition(fresh + again + nearly)
    assert found.exact == pytest.approx(50 / 550)
    # By construction they overlap by over 90 %; banding finds all but a few in a thousand of those.
    assert found.near == pytest.approx(150 / 550, abs=0.01)
    assert repetition(fresh).near < 0.01


def test_new_words_are_seen() -> None:
    rng = random.Random(2)
    old = [text_of(rng, "order") for _ in range(400)]
    new = [" ".join(f"{word}{word}" for word in text_of(rng, "order").split()) for _ in range(100)]
    assert novelty(old + old[:100]).late < 0.5 * novelty(old + new).late
    assert novelty(old + new).late > 0.5


@pytest.mark.parametrize(
    ("cases", "kind"),
    [
        (classify(300), "classification"),
        (slots(300), "conversion"),
        (stories(300), "creative"),
        ([Case(f"please tell {c.input}", f"tell {c.input}") for c in classify(300)], "extraction"),
        ([Case(c.input, '{"story": "' + c.output + '"}') for c in stories(300)], "creative"),
    ],
)
def test_forms(cases, kind) -> None:
    assert form_of(cases).kind == kind


def test_a_learnable_task_is_certified_and_noise_is_not() -> None:
    found = probe(classify(1500, noise=0.03), 0.05, 0.05)
    assert found is not None
    assert found.agreement > 0.95
    assert found.coverage_lower <= found.coverage <= found.coverage_upper
    assert found.coverage > 0.9
    certified = [probe(classify(400, noise=1.0, seed=seed), 0.05, 0.05) for seed in range(20)]
    # Two of three answers to noise are wrong: whoever serves under 7.5 % of it keeps the overall promise all the same.
    assert max(one.coverage for one in certified if one is not None) <= 0.075


def test_the_promise_holds_in_the_population() -> None:
    """Of what 24 probes may serve, the true share that differs is known: with delta = 5 %, at most 2 break it."""
    broken = 0
    for seed in range(24):
        found = probe(classify(600, noise=0.15, seed=seed), 0.05, 0.05)
        assert found is not None
        # Noise is by lot, so whatever is served differs in two of three noisy cases, whatever the threshold.
        broken += found.coverage * 0.15 * 2 / 3 > 0.05
    assert broken <= 2, broken


def test_a_form_is_learnt_field_by_field_and_what_cannot_be_is_said() -> None:
    found = probe(slots(900), 0.05, 0.05)
    assert found is not None
    assert (found.fields, found.left_out) == (2, 1)
    assert found.agreement > 0.95
    said = advise(slots(900), Circumstances(usd_per_call=0.01))
    assert (said.recommendation, said.student) == ("maybe", "small language model")
    assert said.reasons[0].startswith("1 fields have too many values")


def test_what_is_learnt_is_tested_on_later_cases() -> None:
    before, after = classify(700, timed=True), classify(300, seed=9, timed=True)
    turned = {"order": "refund", "refund": "praise", "praise": "order"}
    drifted = [replace(c, output=turned[c.output], time=before[-1].time) for c in after]
    found = probe(before + drifted, 0.05, 0.05)
    assert found is not None
    assert found.agreement < 0.3
    assert found.coverage <= 0.05


def test_recommendations_and_their_reasons() -> None:
    good = advise(classify(1500, timed=True), Circumstances(usd_per_call=0.01))
    assert (good.recommendation, good.student) == ("distil", "hashed n-grams or a cut encoder")
    assert good.saving_share is not None
    assert 0.7 < good.saving_share.lower <= good.saving_share.estimate <= good.saving_share.upper <= 0.9
    assert good.requests_per_day is not None
    assert good.requests_per_day.estimate == pytest.approx(24, rel=0.05)
    assert good.saving_usd_per_month is not None
    assert good.saving_usd_per_month.lower <= good.saving_usd_per_month.estimate <= good.saving_usd_per_month.upper

    critical = advise(classify(1500), Circumstances(criticality="high"))
    assert (critical.recommendation, critical.student) == ("do not", "none")
    assert "criticality" in critical.reasons[0]

    told = advise(stories(400), Circumstances())
    assert told.recommendation == "do not"
    assert "agreement is not defined without a judge" in told.reasons[0]
    assert (told.probe, told.saving_share) == (None, None)

    few = advise(classify(60), Circumstances())
    assert few.recommendation == "maybe"
    assert few.reasons[0] == "fewer than 200 usable cases: record more, then ask again"

    cheap = advise(classify(1500), Circumstances(usd_per_call=1e-6))
    assert cheap.recommendation == "do not"
    assert "would not pay back" in cheap.reasons[0]


def test_a_teacher_that_does_not_agree_with_itself_forbids_a_student() -> None:
    rng = random.Random(3)
    once = classify(600)
    twice = [replace(case, output=rng.choice(["order", "refund", "praise"])) for case in once[:200]]
    found = advise(once + twice, Circumstances())
    assert found.recommendation == "do not"
    assert found.reasons[0].startswith("the teacher agrees with itself in 3")


def test_repeated_stories_are_for_a_cache() -> None:
    cases = stories(200) * 2
    found = advise(cases, Circumstances())
    assert found.recommendation == "maybe"
    assert found.reasons[0] == "50% of the requests repeat an earlier one: a cache pays already"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=20)), min_size=1, max_size=30))
def test_anything_gets_an_answer(rows) -> None:
    found = advise([Case(text, answer) for text, answer in rows], Circumstances())
    assert found.recommendation in ("distil", "maybe", "do not")
    assert found.reasons


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to give advice on"):
        advise([], Circumstances())
