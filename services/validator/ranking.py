"""A condition of tasks that rerank: how well, on average, what clients get is ordered."""

from __future__ import annotations

from collections.abc import Sequence

from services.validator.cases import Outcome, finite_exp
from stillhouse.events import Condition
from stillhouse.quality.betting import ScoreTest
from stillhouse.tasks.comparators.items import ranking_score
from stillhouse.tasks.conditions import RankingQuality


def ranking_condition(wanted: RankingQuality, threshold: float, cases: Sequence[Outcome], alpha: float) -> Condition:
    """The mean score of the cascade's rankings against the teacher's: what is escalated is the teacher's, and scores 1.

    A test by betting (`ScoreTest`), valid at every look.
    """
    test = ScoreTest(wanted.floor, alpha)
    settings = wanted.comparator()
    test.update_all(
        ranking_score(settings, case.label, case.teacher) if case.served(threshold) else 1.0 for case in cases
    )
    name = f"{wanted.metric}@{wanted.k}" if wanted.k is not None and wanted.metric == "ndcg" else wanted.metric
    return Condition(
        name=name,
        verdict=test.verdict,
        floor=test.floor,
        estimate=test.estimate,
        lower=test.lower_bound(1 - alpha) if test.n else None,
        upper=test.upper_bound(1 - alpha) if test.n else None,
        n=test.n,
        evidence=finite_exp(test.log_e_pass),
        note="mean over all requests, against the teacher's order; anytime-valid bounds",
        needs_more=test.needs_more(),
    )
