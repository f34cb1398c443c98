"""`drift`: after how many audits a change is seen, and how often an alarm is raised where nothing changed.

Simulated: a student loses 5 % of audits, which is what its promise allows; then it loses 10 %. Detectors that learn
from the stream what is usual know more the longer it was: the change comes after 10,000 audits, and after 1,000. Real
(`commit_type_stream`): a classifier trained on the commit subjects of 2016-17 meets those of 2018, which are like them,
and of 2019 and later, which are not; each repeat audits another random half of the stream. All detectors see the same
streams. A false alarm is any alarm within 10,000 audits at no change.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.quality import ErrorDetector, clopper_pearson
from stillhouse.quality.edetector import advance, likelihood_ratios
from tests.benchmarks import meta, peers
from tests.benchmarks.data import Data, Row, load, load_dev, shared
from tests.benchmarks.report import percent, rate, share, table

P0, P1 = 0.05, 0.10
CLEAN, EARLY, AFTER, LONG = 10_000, 1000, 5000, 10_000  # audits
PI = 0.5  # share of the real stream that each repeat audits
LEVELS = {"stillhouse": 1_000_000.0, "stillhouse_arl_100000": 100_000.0}  # the first is a task's default
RIVER = ("river==0.22.0",)
MAPIE = ("mapie==1.6.0",)
HEADINGS = (
    "detector",
    "median delay",
    "never",
    "before the change",
    "median delay after 1,000 clean",
    "false alarms in 10,000",
    "real: median delay",
    "real: before the change",
)


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    repeats = 40 if quick else 300
    rng = np.random.default_rng(1)
    streams = {
        "change": rng.random((repeats, CLEAN + AFTER)) < np.where(np.arange(CLEAN + AFTER) < CLEAN, P0, P1),
        "early": rng.random((repeats, EARLY + AFTER)) < np.where(np.arange(EARLY + AFTER) < EARLY, P0, P1),
        "none": rng.random((repeats, LONG)) < P0,
    }
    real = _real_stream(data if data is not None else shared("commit_type_stream"), rng, min(repeats, 200))
    streams |= {"real": real["losses"], "real_none": real["without_change"]}
    p0 = {"change": P0, "early": P0, "none": P0, "real": real["p0"], "real_none": real["p0"]}
    alarms, versions, failed = _peers(streams, p0, real["before"], quick)
    for name, level in LEVELS.items():
        alarms[name] = {of: _stillhouse(rows, p0[of], level) for of, rows in streams.items()}
    _check_against_the_product(streams["early"][:5], alarms["stillhouse"]["early"][:5])
    result: dict[str, Any] = {
        name: {
            **_judged(alarms[name], CLEAN, "change", "none"),
            "after_1000": _judged(alarms[name], EARLY, "early", "none"),
        }
        for name in (*LEVELS, *peer_names(alarms))
    }
    result["commit_type_stream"] = {
        "stream": real["facts"],
        **{name: _judged(alarms[name], real["before"], "real", "real_none") for name in (*LEVELS, *peer_names(alarms))},
    }
    if failed:
        result["not_run"] = failed
    result["meta"] = meta.finish(
        begun,
        repeats=repeats,
        quick=quick,
        data=f"generated; {real['facts']['data']}",
        packages=("numpy", "scipy", "scikit-learn"),
    )
    result["meta"]["versions"] |= versions
    return result


def peer_names(alarms: dict[str, Any]) -> list[str]:
    """The detectors that are not Stillhouse's own."""
    return [name for name in alarms if name not in LEVELS]


def _peers(
    streams: dict[str, NDArray[np.bool_]], p0: dict[str, float], before: int, quick: bool
) -> tuple[dict[str, dict[str, list[int | None]]], dict[str, str], dict[str, str]]:
    """First alarms of each peer, versions, and why a peer did not run."""
    alarms: dict[str, dict[str, list[int | None]]] = {}
    versions: dict[str, str] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "streams.npz"
        np.savez(path, **streams)  # type: ignore[arg-type]
        job: dict[str, Any] = {"streams": str(path)}
        reference = {
            "change": EARLY // 2,
            "early": EARLY // 2,
            "none": EARLY // 2,
            "real": before // 2,
            "real_none": before // 2,
        }
        for peer, requirements, program, extra in (
            ("river", RIVER, "river_detectors.py", {"most": 3 if quick else 12}),  # KSWIN: half a millisecond an audit
            ("mapie", MAPIE, "mapie_monitoring.py", {"most": 8 if quick else 20, "p0": p0, "reference": reference}),
        ):
            try:
                said = peers.run(peer, requirements, program, job | extra, timeout_s=1500)
            except peers.PeerFailed as error:
                failed[peer] = str(error)
                continue
            alarms |= said["alarms"]
            versions |= said["version"]
    return alarms, versions, failed


def _stillhouse(rows: NDArray[np.bool_], p0: float, level: float) -> list[int | None]:
    """The first alarm of each stream [streams, audits], by the product's own step, all streams at once."""
    ratios = likelihood_ratios(p0)
    state = np.ones((len(rows), ratios.shape[1]))
    first = np.zeros(len(rows), dtype=int)
    for i in range(rows.shape[1]):
        state = advance(state, ratios[rows[:, i].astype(int)])
        alarm = (state.mean(axis=1) >= 1 + level) & (first == 0)
        first[alarm] = i + 1
    return [int(value) or None for value in first]


def _check_against_the_product(rows: NDArray[np.bool_], expected: list[int | None]) -> None:
    """Raises `AssertionError` where `ErrorDetector` itself alarms at another audit than the vectorised run."""
    for row, alarm in zip(rows, expected, strict=True):
        detector = ErrorDetector(P0, LEVELS["stillhouse"])
        found = None
        for loss in row:
            detector.update(bool(loss))
            if detector.alarm:
                found = detector.n
                break
        assert found == alarm, (found, alarm)


def _judged(alarms: dict[str, list[int | None]], before: int, change: str, none: str) -> dict[str, Any]:
    """Delay among streams without an alarm before the change, and false alarms."""
    changed = alarms[change]
    early = sum(at is not None and at <= before for at in changed)
    delays = [math.inf if at is None else at - before for at in changed if at is None or at > before]
    median = float(np.median(delays)) if delays else math.inf
    false = rate(sum(at is not None for at in alarms[none]), len(alarms[none]))
    return {
        "median_delay": median if math.isfinite(median) else None,
        "delay_quartiles": [_finite(float(np.quantile(delays, q, method="higher"))) for q in (0.25, 0.75)]
        if delays
        else None,
        "never_rate": sum(math.isinf(delay) for delay in delays) / len(delays) if delays else None,
        "alarm_before_change_rate": early / len(changed),
        "false_alarm_rate": false["value"],
        "false_alarm_interval": [false["low"], false["high"]],
        "streams": len(changed),
    }


def _real_stream(path: Path, rng: np.random.Generator, repeats: int) -> dict[str, Any]:
    """Losses of a classifier that was trained on the stream's beginning, in time order, audited at random.

    The promise p0 is what the first years themselves show: the upper end of the exact 95 % interval of the loss rate
    on a part of them that was held out of training.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    data = load(path, in_order=True)
    calm = load_dev(path)
    if not calm:  # one file: the first third of what is judged counts as calm
        cut = len(data.test) // 3
        data = Data(data.name, data.train, data.test[cut:])
        calm = load(path, in_order=True).test[:cut]
    order = np.random.default_rng(0).permutation(len(data.train))
    cut = len(order) * 85 // 100
    learnt, held = [data.train[i] for i in order[:cut]], [data.train[i] for i in order[cut:]]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000, C=10)
    )
    model.fit([row.text for row in learnt], [row.label for row in learnt])

    def losses_of(rows: list[Row]) -> NDArray[np.bool_]:
        return np.asarray(
            model.predict([row.text for row in rows]) != np.array([row.label for row in rows]), dtype=bool
        )

    held_losses, calm_losses, changed_losses = losses_of(held), losses_of(calm), losses_of(data.test)
    wrong = int(held_losses.sum())
    p0 = clopper_pearson(wrong, held_losses.size, 0.9)[1]
    before, after = int(len(calm) * PI), int(len(data.test) * PI)
    drawn = [
        np.concatenate([_sample(calm_losses, before, rng), _sample(changed_losses, after, rng)]) for _ in range(repeats)
    ]
    # No change: the calm years themselves, drawn with replacement for as long as the simulated streams are.
    quiet = np.concatenate([held_losses, calm_losses])
    facts = {
        "data": data.name,
        "model": "TF-IDF + logistic regression",
        "rows": {"learnt": len(learnt), "held_out": len(held), "calm": len(calm), "changed": len(data.test)},
        "p0": p0,
        "loss_rate": {
            "held_out": wrong / held_losses.size,
            "calm": calm_losses.mean(),
            "changed": changed_losses.mean(),
        },
        "audited_share": PI,
        "changed_from": data.test[0].timestamp,
    }
    return {
        "losses": np.stack(drawn),
        "without_change": rng.choice(quiet, (repeats, LONG)),
        "p0": p0,
        "before": before,
        "facts": facts,
    }


def _sample(losses: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    return losses[np.sort(rng.choice(losses.size, count, replace=False))]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    real = result["commit_type_stream"]
    rows = []
    for name, figures in result.items():
        if name in ("meta", "commit_type_stream", "not_run"):
            continue
        rows.append(
            [
                name,
                figures["median_delay"],
                percent(figures["never_rate"]),
                percent(figures["alarm_before_change_rate"]),
                figures["after_1000"]["median_delay"],
                share({"value": figures["false_alarm_rate"], **_ends(figures["false_alarm_interval"])}),
                real[name]["median_delay"],
                percent(real[name]["alarm_before_change_rate"]),
            ]
        )
    of = real["stream"]
    text = table(HEADINGS, rows) + (
        f"\n\nThe real stream: the promise is {percent(of['p0'])}, the upper end of what {of['rows']['held_out']} "
        f"held-out texts allow; {percent(of['loss_rate']['calm'])} are lost while nothing changes and "
        f"{percent(of['loss_rate']['changed'])} after. Stillhouse asks whether the promise is broken, not whether "
        "anything changed, so slack in a promise costs it delay that ADWIN does not have."
    )
    return text + "".join(f"\n\nNot run: {why}." for why in result.get("not_run", {}).values())


def _ends(interval: list[float]) -> dict[str, float]:
    return {"low": interval[0], "high": interval[1]}
