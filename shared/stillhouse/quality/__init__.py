"""Agreement, sequential tests, thresholds and drift: every decision is made with a stated error rate."""

from stillhouse.quality.agreement import exact
from stillhouse.quality.alpha import alpha_share
from stillhouse.quality.binomial import clopper_pearson, clopper_pearson_upper, wilson
from stillhouse.quality.edetector import ErrorDetector
from stillhouse.quality.eprocess import AgreementTest
from stillhouse.quality.thresholds import (
    SERVE_NOTHING,
    Threshold,
    certify_fixed,
    choose_threshold,
    default_grid,
    walk_of,
)

__all__ = [
    "SERVE_NOTHING",
    "AgreementTest",
    "ErrorDetector",
    "Threshold",
    "alpha_share",
    "certify_fixed",
    "choose_threshold",
    "clopper_pearson",
    "clopper_pearson_upper",
    "default_grid",
    "exact",
    "walk_of",
    "wilson",
]
