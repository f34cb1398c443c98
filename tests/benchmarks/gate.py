"""`gate`: how many teacher calls a verdict costs, and how often it is wrong.

Every method is asked the same question of the same cases: is agreement above 95 %, at error 5 %? Stillhouse looks after
every case. The peers are what people do instead: an exact test (Clopper-Pearson) on a sample size fixed beforehand, a
fixed 20 cases of which 19 must agree, and a Wilson interval that is looked at every 25 cases until it says yes.

Cases are drawn at a known true agreement, and (`clinc150`) from the real answers of a teacher and a student, with
replacement, so that the truth is known there too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import beta, binom

from stillhouse.quality.eprocess import AgreementTest, log_evidence_above
from tests.benchmarks import meta
from tests.benchmarks.population import Population, population
from tests.benchmarks.report import percent, rate, table

FLOOR, ALPHA = 0.95, 0.05
BUDGET = 5000  # cases; the default `max_cases` of a task
TRUTHS = (0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
POWER = 0.9  # that the fixed sample size is planned for
WILSON_EVERY = 25
CHUNK = 1000
COST_AT = ("0.97", "0.98", "0.99")

Cases = NDArray[np.bool_]
# Cases [streams, BUDGET] -> case at which each stream passed, and failed; BUDGET + 1: never
Method = Callable[[Cases], tuple[NDArray[np.int64], NDArray[np.int64]]]


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    streams = 2_000 if quick else 20_000
    pool = population(quick, data)
    fixed = {f"{truth:g}": fixed_size(truth) for truth in (0.97, 0.98, 0.99)}
    methods: dict[str, Method] = {
        "stillhouse": sequential(),
        "fixed_n": fixed_n(fixed["0.98"]),
        "wilson_peeking": wilson_peeking,
        "fixed_20": fixed_20,
    }
    result: dict[str, Any] = {name: simulate(method, streams) for name, method in methods.items()}
    # A fixed size must be planned for an agreement that nobody knows yet; each plan has its own size.
    result["fixed_n"]["median_cases"] = {key: float(n) for key, n in fixed.items()}
    result["fixed_n"]["planned_for"] = "90 % power at that agreement; false promotions and power at the plan for 0.98"
    result["clinc150"] = {
        "teacher_and_student": pool.facts,
        **{name: real(method, pool, streams // 10) for name, method in methods.items()},
    }
    check_against_the_product(streams=50 if quick else 200)
    result["meta"] = meta.finish(
        begun,
        repeats=streams,
        quick=quick,
        data=f"generated; {pool.facts['data']}",
        packages=("numpy", "scipy", "onnxruntime", "torch"),
    )
    return result


def simulate(method: Method, streams: int) -> dict[str, Any]:
    """Error rates and costs of a method at every true agreement."""
    at: dict[str, dict[str, Any]] = {}
    for i, truth in enumerate(TRUTHS):
        rng = np.random.default_rng([1, i])
        at[f"{truth:g}"] = judged(method, lambda n, truth=truth, rng=rng: rng.random((n, BUDGET)) < truth, streams)
    # H0 is agreement <= floor; its worst case is the floor itself.
    worst = max((truth for truth in TRUTHS if truth <= FLOOR), key=lambda t: at[f"{t:g}"]["passed"]["value"])
    false = at[f"{worst:g}"]["passed"]
    right = max(at[f"{truth:g}"]["failed"]["value"] for truth in TRUTHS if truth >= FLOOR)
    return {
        "false_promotion_rate": false["value"],
        "false_promotion_interval": [false["low"], false["high"]],
        "false_refusal_rate": right,
        "median_cases": {key: at[key]["median_cases_to_pass"] for key in COST_AT},
        "at": at,
    }


def judged(method: Method, draw: Callable[[int], Cases], streams: int) -> dict[str, Any]:
    """What a method says of `streams` streams of cases: shares passed and failed, and cases until passed."""
    passed, failed = [], []
    for start in range(0, streams, CHUNK):
        a, b = method(draw(min(CHUNK, streams - start)))
        passed.append(a)
        failed.append(b)
    when_passed, when_failed = np.concatenate(passed), np.concatenate(failed)
    said_yes = (when_passed <= BUDGET) & (when_passed <= when_failed)
    said_no = (when_failed <= BUDGET) & ~said_yes
    cost = np.where(said_yes, when_passed, np.inf)
    ended = np.minimum(np.minimum(when_passed, when_failed), BUDGET)
    middle = float(np.median(cost))
    return {
        "passed": rate(int(said_yes.sum()), streams),
        "failed": rate(int(said_no.sum()), streams),
        "median_cases_to_pass": middle if math.isfinite(middle) else None,
        "p90_cases_to_pass": _quantile(cost, 0.9),
        "mean_teacher_calls": float(ended.mean()),
    }


def real(method: Method, pool: Population, streams: int) -> dict[str, Any]:
    """The same on real answers: thresholds of the student's confidence give pools just below and above the floor."""
    out: dict[str, Any] = {}
    for name, threshold in (
        ("just_below", pool.threshold_for(FLOOR, above=False)),
        ("at_98", pool.threshold_for(0.98)),
    ):
        agrees = ~(pool.agrees_not & (pool.confidence >= threshold))
        rng = np.random.default_rng([2, len(name)])
        drawn = judged(method, partial(_with_replacement, agrees, rng), streams)
        out[name] = {"true_agreement": float(agrees.mean()), "cases_in_pool": int(agrees.size), **drawn}
    return out


def sequential() -> Method:
    """Stillhouse's gate, looked at after every case.

    For a number of disagreements b the evidence grows with agreements, so a path passes at the first case where it has
    at least `least[b]` of them, and fails where it has at most `most[b]`. The two tables are computed with the
    product's own evidence; `check_against_the_product` compares verdicts with the class itself.
    """
    target = -math.log(ALPHA)
    least = np.array([_first(lambda a, b=b: log_evidence_above(a, b, FLOOR) >= target) for b in range(BUDGET // 4)])
    most = np.array(
        [_first(lambda a, b=b: log_evidence_above(b, a, 1 - FLOOR) < target) - 1 for b in range(BUDGET // 4)]
    )

    def method(cases: Cases) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        agree = np.cumsum(cases, axis=1, dtype=np.int32)
        disagree = np.minimum(np.arange(1, cases.shape[1] + 1, dtype=np.int32) - agree, len(least) - 1)
        return _first_true(agree >= least[disagree]), _first_true(agree <= most[disagree])

    return method


def fixed_n(n: int) -> Method:
    """One look after `n` cases: promoted where the exact lower bound (one-sided, 5 %) is above the floor."""
    needed = least_successes(n)

    def method(cases: Cases) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        enough = cases[:, :n].sum(axis=1) >= needed
        return np.where(enough, n, BUDGET + 1), np.where(enough, BUDGET + 1, n)

    return method


def fixed_20(cases: Cases) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """20 cases, promoted at 95 %: 19 must agree."""
    enough = cases[:, :20].sum(axis=1) >= 19
    return np.where(enough, 20, BUDGET + 1), np.where(enough, BUDGET + 1, 20)


def wilson_peeking(cases: Cases) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every 25 cases: promoted when Wilson's one-sided 95 % bound is above the floor, refused when below it."""
    looks = np.arange(WILSON_EVERY, cases.shape[1] + 1, WILSON_EVERY)
    share = np.cumsum(cases, axis=1, dtype=np.int32)[:, looks - 1] / looks
    z = float(ndtri(1 - ALPHA))
    centre = (share + z * z / (2 * looks)) / (1 + z * z / looks)
    half = z / (1 + z * z / looks) * np.sqrt(share * (1 - share) / looks + z * z / (4 * looks * looks))
    return _at_look(centre - half > FLOOR, looks), _at_look(centre + half < FLOOR, looks)


def fixed_size(truth: float) -> int:
    """The smallest sample size whose exact test has 90 % power at `truth`."""
    for n in range(20, BUDGET):
        if float(binom.sf(least_successes(n) - 1, n, truth)) >= POWER:
            return n
    raise ValueError(f"no sample of up to {BUDGET} cases has {POWER:.0%} power at {truth}")


def least_successes(n: int) -> int:
    """The fewest agreements among `n` whose one-sided Clopper-Pearson bound is above the floor; or n + 1."""
    successes = np.arange(1, n + 1)
    bounds = beta.ppf(ALPHA, successes, n - successes + 1)
    return int(np.searchsorted(bounds, FLOOR, side="right")) + 1


def check_against_the_product(streams: int) -> None:
    """Raises `AssertionError` where the vectorised gate and `AgreementTest` disagree on any of some streams."""
    method = sequential()
    for i, truth in enumerate((0.95, 0.98)):
        cases = np.random.default_rng([3, i]).random((streams // 2, BUDGET)) < truth
        passed, failed = method(cases)
        for row in range(len(cases)):
            test, when = AgreementTest(FLOOR, ALPHA), BUDGET + 1
            for n, agrees in enumerate(cases[row, :1500], start=1):
                test.update(bool(agrees))
                if test.verdict != "undecided":
                    when = n
                    break
            expected = min(int(passed[row]), int(failed[row]))
            assert when == expected or (when > 1500 and expected > 1500), (truth, row, when, expected)


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = []
    for name in ("stillhouse", "fixed_n", "wilson_peeking", "fixed_20"):
        figures, pool = result[name], result["clinc150"][name]
        interval = figures["false_promotion_interval"]
        rows.append(
            [
                name,
                f"{percent(figures['false_promotion_rate'])} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})",
                percent(figures["false_refusal_rate"]),
                *(figures["median_cases"][key] for key in COST_AT),
                percent(figures["at"]["0.98"]["passed"]["value"]),
                percent(pool["just_below"]["passed"]["value"]),
                pool["at_98"]["median_cases_to_pass"],
            ]
        )
    below = result["clinc150"]["stillhouse"]["just_below"]["true_agreement"]
    headings = ["method", "bad student promoted", "good student refused"]
    headings += [f"cases at {key}" for key in COST_AT]
    headings += ["promoted at 0.98", f"clinc150: promoted at {below:.4f}", "clinc150: cases at 0.98"]
    return table(headings, rows)


def _first(holds: Callable[[int], bool]) -> int:
    """The smallest count in [0, 2^20] for which a rising condition holds."""
    low, high = 0, 1
    while not holds(high) and high < 1 << 20:
        low, high = high, high * 2
    if holds(0):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _first_true(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(marks.any(axis=1), marks.argmax(axis=1) + 1, BUDGET + 1)


def _at_look(marks: NDArray[np.bool_], looks: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(marks.any(axis=1), looks[marks.argmax(axis=1)], BUDGET + 1)


def _with_replacement(agrees: Cases, rng: np.random.Generator, n: int) -> Cases:
    return agrees[rng.integers(0, agrees.size, (n, BUDGET))]


def _quantile(cost: NDArray[np.float64], q: float) -> float | None:
    value = float(np.quantile(cost, q, method="higher"))
    return value if math.isfinite(value) else None
