"""`cascade`: what share of traffic a student can serve at a certified agreement with its teacher.

`coverage_at_95`: share of the test texts served where agreement *among the served* is certified to be at least 95 %,
with confidence 95 %, on the calibration part. `escalation_at_97`: share sent to the teacher so that at most 3 % of all
texts are served and different. `promise_broken_rate`: calibration sets of the same size are drawn 1,000 times with
replacement from the test texts, so that the true risk of every threshold is known; the worse of the two promises.

Agreement is with the recorded teacher (`teacher`) where the rows have one. Rows of text and label alone have none: then
the label stands for its answer, as if a teacher that is always right had been asked (clinc150, commit_type_stream).

Stillhouse: the students that the trainer makes, with their exported confidence, certified by the walk that `quality`
has. `stillhouse` is the rung that serves most at half the risk on the select part, which is how a threshold is chosen.
Peers: an embedding + logistic regression student under the same exact binomial walk; TRACER with its own certificate,
on these parts, and (`tracer_own_split`) as it splits them itself, which mixes training texts into its calibration, both
without its forests and boosted trees (`SKIPPED`), with which one fit takes over 15 minutes; and, on Stillhouse's best
student, an empirical threshold (FrugalGPT, RouteLLM) and MAPIE's Learn-then-Test.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.student import OnnxStudent
from stillhouse.quality import SERVE_NOTHING, certify_fixed, choose_threshold, clopper_pearson, walk_of
from stillhouse.tasks import StudentCandidate, Task, Teacher
from tests.benchmarks import meta, peers
from tests.benchmarks.cascade_data import Parts, parts, vectors
from tests.benchmarks.data import shared
from tests.benchmarks.population import Setting, trained
from tests.benchmarks.report import percent, table

SELECTIVE, OVERALL, DELTA = 0.05, 0.03, 0.05
DRAWS = 1000
LADDER = {
    "stillhouse_hashed_ngrams": StudentCandidate(architecture="hashed_ngrams", epochs=20),
    "stillhouse_cut3": StudentCandidate(architecture="cut_encoder", layers=3, epochs=5),
    "stillhouse_joint": StudentCandidate(architecture="joint"),
}
TRACER = ("tracer-llm==0.3.3",)
TRACER_S, ALL_S = 800.0, 1100.0  # since a data set was begun: TRACER on everybody's parts, and then by itself
MAPIE = ("mapie==1.6.0",)
SKIPPED = ("gbt", "xgb", "rf", "et", "dt")  # of TRACER's candidates: with all of them a fit takes over 15 minutes
HEADINGS = ("system", "coverage at 95 %", "agreement there", "escalated at 97 %", "agreement there", "promise broken")


@dataclass(frozen=True, slots=True)
class Answers:
    """How sure a system is of its answers to a part, and whether they are the teacher's, each [n]."""

    confidence: NDArray[np.float64]
    agrees: NDArray[np.bool_]


Said = dict[str, Answers]  # by part: select, calibration, test
Certify = Callable[[Answers, bool], float]  # cases, selective? -> threshold


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    result: dict[str, Any]
    main = parts(data if data is not None else shared("clinc150"), quick=quick)
    result, versions = systems(main, quick)
    names = [main.name]
    if data is None:
        stream = parts(shared("commit_type_stream"), quick=quick)
        result["commit_type_stream"], _ = systems(stream, quick)
        names.append(stream.name)
    packages = ("onnxruntime", "torch", "scikit-learn", "numpy", "scipy")
    draws = DRAWS // 10 if quick else DRAWS
    result["meta"] = meta.finish(begun, repeats=draws, quick=quick, data=", ".join(names), packages=packages)
    result["meta"]["versions"] |= versions
    return result


def systems(of: Parts, quick: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Every system on one set of parts, and the peers' versions."""
    draws = DRAWS // 10 if quick else DRAWS
    found: dict[str, Any] = {}
    versions: dict[str, str] = {}
    failed: dict[str, str] = {}
    begun = time.monotonic()
    embedded = vectors(of)
    with ThreadPoolExecutor(1) as beside:  # a peer on one core, students on the other
        tracer = beside.submit(_tracer, of, embedded, draws, True, begun + TRACER_S)
        tracer_alone = beside.submit(_tracer, of, embedded, draws, False, begun + ALL_S)
        said = {name: _student(name, of) for name in LADDER}
        best = max(said, key=lambda name: choose_threshold_coverage(said[name]["select"]))
        found["stillhouse"] = judged(said[best], walked(said[best]["select"]), draws) | {"student": best}
        for kind in ("max_probability", "margin"):  # what the learned confidence adds
            other = _student(best, of, kind)
            found[f"{best}_{kind}"] = judged(other, walked(other["select"]), draws)
        for name in LADDER:
            found[name] = judged(said[name], walked(said[name]["select"]), draws)
        regression = _embedding_lr(of, embedded)
        found["embedding_lr"] = judged(regression, walked(regression["select"]), draws)
        if of.undo is not None:
            as_given = {"stillhouse": _as_given(said[best], of.undo), "embedding_lr": _as_given(regression, of.undo)}
            found["split_as_given"] = {
                name: judged(given, walked(given["select"]), draws) for name, given in as_given.items()
            }
        found["empirical"] = judged(said[best], empirical, draws) | {"student": best}
        for name, peer in (
            ("mapie_ltt", lambda: _mapie(said[best], draws)),
            ("tracer", tracer.result),
            ("tracer_own_split", tracer_alone.result),
        ):
            try:
                found[name], version = peer()
                versions |= version
            except peers.PeerFailed as error:
                failed[name] = str(error)
    if failed:
        found["not_run"] = failed
    found["texts"] = {
        **{part: len(getattr(of, part)) for part in ("train", "select", "calibration", "test")},
        "labels": len(of.labels),
        "left_out": of.left_out,
        "in_order": of.in_order,
        "teacher": of.teacher,
    }
    return found, versions


def _as_given(said: Said, undo: NDArray[np.int64]) -> Said:
    """The same answers with calibration and test parts as the data came."""
    calibration, test = said["calibration"], said["test"]
    confidence = np.concatenate([calibration.confidence, test.confidence])[undo]
    agrees = np.concatenate([calibration.agrees, test.agrees])[undo]
    cut = len(calibration.agrees)
    came = {"calibration": Answers(confidence[:cut], agrees[:cut]), "test": Answers(confidence[cut:], agrees[cut:])}
    return said | came


def choose_threshold_coverage(select: Answers) -> float:
    """What a student would serve at half of the gate's epsilon."""
    return choose_threshold(select.confidence, select.agrees, SELECTIVE / 2, select.confidence).coverage


def walked(select: Answers) -> Certify:
    """Stillhouse's certificate: a walk fixed on the select part, an exact binomial bound at each step."""

    def certify(cases: Answers, selective: bool) -> float:
        grid = walk_of(select.confidence, select.agrees, len(cases.agrees), DELTA, selective=selective)
        epsilon = SELECTIVE if selective else OVERALL
        found = certify_fixed(cases.confidence, cases.agrees, epsilon, DELTA, grid, selective=selective)
        return SERVE_NOTHING if found is None else found.value

    return certify


def empirical(cases: Answers, selective: bool) -> float:
    """The loosest threshold at which the calibration cases keep the promise, taken at its word."""
    if not selective:
        return choose_threshold(cases.confidence, cases.agrees, OVERALL, cases.confidence).value
    order = np.argsort(-cases.confidence, kind="stable")
    risk = np.cumsum(~cases.agrees[order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(risk <= SELECTIVE)
    return float(cases.confidence[order][kept[-1]]) if kept.size else SERVE_NOTHING


def judged(said: Said, certify: Certify, draws: int) -> dict[str, Any]:
    """Thresholds from the calibration part, figures from the test part, and how often redrawn calibrations break."""
    pool = said["test"]
    rng = np.random.default_rng(1)
    broken = {True: 0, False: 0}
    for _ in range(draws):
        at = rng.integers(0, len(pool.agrees), len(said["calibration"].agrees))
        drawn = Answers(pool.confidence[at], pool.agrees[at])
        for selective in broken:
            broken[selective] += breaks(pool, certify(drawn, selective), selective)
    thresholds = {selective: certify(said["calibration"], selective) for selective in broken}
    return figures(pool, thresholds[True], thresholds[False], {key: count / draws for key, count in broken.items()})


def figures(pool: Answers, selective: float, overall: float, broken: dict[bool, float]) -> dict[str, Any]:
    """A system's entry of the result file: what the two thresholds do to the test part."""
    served, served_overall = pool.confidence >= selective, pool.confidence >= overall
    right, n = int(pool.agrees[served].sum()), int(served.sum())
    return {
        "coverage_at_95": float(served.mean()),
        "agreement_at_95": right / n if n else None,
        "agreement_at_95_interval": list(clopper_pearson(right, n)) if n else None,
        "escalation_at_97": float(1 - served_overall.mean()),
        "agreement_at_97": float(1 - (served_overall & ~pool.agrees).mean()),
        "promise_broken_rate": max(broken.values()),
        "promise_broken": {"selective": broken[True], "overall": broken[False]},
        "agreement_without_threshold": float(pool.agrees.mean()),
        "n_test": len(pool.agrees),
    }


def breaks(pool: Answers, threshold: float, selective: bool) -> bool:
    """Whether the true risk of a threshold, over the whole pool, is above what was promised."""
    served = pool.confidence >= threshold
    lost = int((served & ~pool.agrees).sum())
    return lost > SELECTIVE * int(served.sum()) if selective else lost > OVERALL * len(served)


def _student(name: str, of: Parts, kind: str = "") -> Said:
    """A student of the ladder, trained, exported and asked as it serves; kept once made. `kind`: another confidence."""
    kept = of.folder / f"{name}.npz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        task = Task(
            name="bench",
            labels=of.labels,
            teacher=Teacher(seed=Path("none.jsonl"), usd_per_call=0.0),
            students=tuple(LADDER.values()),
        )
        setting = Setting(task, None, of.train, of.select, of.test, [], of.learnt, of.name)
        student = OnnxStudent(trained(name, setting, LADDER[name]))
        found: dict[str, Any] = {}
        for part in ("select", "calibration", "test"):
            texts = getattr(of, part)
            answers = [student.predict_text(text.text) for text in texts]
            likeliest = [[*said[2].values(), 0.0][:2] for said in answers]  # shares under 0.001 are left out
            found[part] = np.array([said[1] for said in answers])
            found[f"{part}_max_probability"] = np.array([first for first, _ in likeliest])
            found[f"{part}_margin"] = np.array([first - second for first, second in likeliest])
            found[f"{part}_agrees"] = np.array(
                [said[0] == text.label for said, text in zip(answers, texts, strict=True)]
            )
        np.savez(kept, **found)
    with np.load(kept) as file:
        named = f"_{kind}" if kind else ""
        return {part: Answers(file[part + named], file[f"{part}_agrees"]) for part in ("select", "calibration", "test")}


def _embedding_lr(of: Parts, embedded: dict[str, NDArray[np.float32]]) -> Said:
    """scikit-learn's logistic regression on the encoder's vectors; its confidence is the largest probability."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000, C=10)
    model.fit(embedded["train"], [text.label for text in of.train])
    said: Said = {}
    for part in ("select", "calibration", "test"):
        shares = model.predict_proba(embedded[part])
        labels = model.classes_[shares.argmax(axis=1)]
        agrees = np.array([label == text.label for label, text in zip(labels, getattr(of, part), strict=True)])
        said[part] = Answers(shares.max(axis=1).astype(np.float64), agrees)
    return said


def _tracer(
    of: Parts, embedded: dict[str, NDArray[np.float32]], draws: int, same_parts: bool, until: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """TRACER's own router, on the parts that everybody has, or on its own split; within `until` (monotonic seconds)."""
    if until - time.monotonic() < 30:
        raise peers.PeerFailed("tracer has no time left of the 20 minutes that a file may take")
    learnt = ("train", "select", "calibration")
    with tempfile.TemporaryDirectory() as scratch:
        arrays = Path(scratch) / "arrays.npz"
        np.savez(arrays, learn=np.concatenate([embedded[part] for part in learnt]), test=embedded["test"])
        job = {
            "arrays": str(arrays),
            "learn": [text.label for part in learnt for text in getattr(of, part)],
            "test": [text.label for text in of.test],
            "parts": [len(getattr(of, part)) for part in learnt] if same_parts else None,
            "target": 1 - SELECTIVE,
            "skip": SKIPPED,
            "draws": draws,
            "drawn": len(of.calibration),
        }
        found = peers.run("tracer", TRACER, "tracer_router.py", job, timeout_s=until - time.monotonic())
    handled = np.array(found["handled"], dtype=bool)
    agrees = np.array([label == text.label for label, text in zip(found["label"], of.test, strict=True)])
    entry = figures(Answers(handled.astype(float), agrees | ~handled), 0.5, 2.0, {True: found["broken"], False: 0.0})
    # It promises agreement among the served only, and its deferred answers are not known.
    entry |= {"escalation_at_97": None, "agreement_at_97": None, "agreement_without_threshold": None}
    entry["promise_broken"]["overall"] = None
    if not same_parts:  # its calibration cases are of another kind than those that could be drawn again
        entry |= {"promise_broken_rate": None, "promise_broken": None}
    entry |= {key: found[key] for key in ("models", "method", "coverage_claimed")}
    return entry, found["version"]


def _mapie(said: Said, draws: int) -> tuple[dict[str, Any], dict[str, str]]:
    """MAPIE's thresholds for the same confidences and the same draws."""
    pool, calibration = said["test"], said["calibration"]
    with tempfile.TemporaryDirectory() as scratch:
        arrays = Path(scratch) / "arrays.npz"
        named = {"confidence": calibration.confidence, "agrees": calibration.agrees}
        np.savez(arrays, **named, pool_confidence=pool.confidence, pool_agrees=pool.agrees)
        job = {"arrays": str(arrays), "draws": draws, "drawn": len(calibration.agrees)}
        job |= {"selective": 1 - SELECTIVE, "overall": 1 - OVERALL}
        found = peers.run("mapie", MAPIE, "mapie_ltt.py", job, timeout_s=900)
    broken = {
        selective: float(np.mean([breaks(pool, _or_nothing(value), selective) for value in found[name]["drawn"]]))
        for selective, name in ((True, "selective"), (False, "overall"))
    }
    thresholds = [_or_nothing(found[name]["threshold"]) for name in ("selective", "overall")]
    return figures(pool, thresholds[0], thresholds[1], broken), found["version"]


def _or_nothing(threshold: float | None) -> float:
    return SERVE_NOTHING if threshold is None else threshold


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown."""
    texts = [_table(result)]
    if (teacher := result["texts"].get("teacher")) is not None and "commit_type_stream" not in result:
        texts.append(f"Agreement is with {teacher}.")
    if "split_as_given" in result:
        texts.append(f"calibrated and judged on the parts as they came\n\n{_table(result['split_as_given'])}")
    if "commit_type_stream" in result:
        texts.append(f"commit_type_stream\n\n{_table(result['commit_type_stream'])}")
    return "\n\n".join(texts)


def _table(found: dict[str, Any]) -> str:
    rows = [
        [
            name + (f" ({entry['student'].removeprefix('stillhouse_')})" if "student" in entry else ""),
            percent(entry["coverage_at_95"]),
            percent(entry["agreement_at_95"]),
            percent(entry["escalation_at_97"]),
            percent(entry["agreement_at_97"]),
            percent(entry["promise_broken_rate"]),
        ]
        for name, entry in found.items()
        if isinstance(entry, dict) and "coverage_at_95" in entry
    ]
    lines = table(HEADINGS, rows)
    return lines + "".join(f"\n\nNot run: {why}." for why in found.get("not_run", {}).values())
