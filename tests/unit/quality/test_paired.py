from __future__ import annotations

import math

import numpy as np
import pytest

from stillhouse.quality.binomial import wilson
from stillhouse.quality.paired import compare_pairs, holm, mcnemar, newcombe


def test_mcnemar_is_the_sign_test_of_discordant_pairs() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(3, 1) == pytest.approx(2 * (1 + 4) / 2**4)
    assert mcnemar(2, 9) == mcnemar(9, 2)


def test_newcombe_without_correlation_is_the_hybrid_of_two_wilson_intervals() -> None:
    both, only_a, only_b, neither = 24, 16, 36, 24  # independent: 0.4 and 0.6 of 100
    low_a, high_a = wilson(40, 100)
    low_b, high_b = wilson(60, 100)
    low = -0.2 - math.hypot(0.4 - low_a, high_b - 0.6)
    high = -0.2 + math.hypot(high_a - 0.4, 0.6 - low_b)
    assert newcombe(both, only_a, only_b, neither) == pytest.approx((low, high))


def test_newcombe_is_symmetric_and_narrower_for_students_alike() -> None:
    low, high = newcombe(70, 10, 5, 15)
    assert newcombe(70, 5, 10, 15) == pytest.approx((-high, -low))
    apart = newcombe(60, 20, 15, 5)  # the same difference with less in common
    assert high - low < apart[1] - apart[0]


def test_its_interval_covers_and_mcnemar_errs_as_seldom_as_they_say() -> None:
    random = np.random.default_rng(0)
    cells, draws = np.array([0.78, 0.09, 0.05, 0.08]), 2000
    covered = sum(
        low <= cells[1] - cells[2] <= high
        for low, high in (newcombe(*random.multinomial(200, cells).tolist()) for _ in range(draws))
    )
    assert covered / draws > 0.935
    alike = np.array([0.8, 0.06, 0.06, 0.08])
    rejected = sum(mcnemar(*random.multinomial(200, alike).tolist()[1:3]) < 0.05 for _ in range(draws))
    assert rejected / draws < 0.05


def test_a_comparison_counts_and_says_who_leads() -> None:
    found = compare_pairs([(True, True)] * 60 + [(True, False)] * 30 + [(False, True)] * 5 + [(False, False)] * 5)
    assert (found.n, found.both, found.only_a, found.only_b, found.neither) == (100, 60, 30, 5, 5)
    assert (found.agreement_a, found.agreement_b, found.difference) == (0.9, 0.65, 0.25)
    assert found.low < 0.25 < found.high
    assert found.p_value < 0.001
    assert found.e_a > 20 > found.e_b
    with pytest.raises(ValueError, match="no case"):
        compare_pairs([])


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
