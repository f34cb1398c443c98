"""`student`: what each student architecture costs beside its teacher, and how often it agrees.

The teacher is fitted on 20 labelled texts a label and answers the rest; every student and every peer learns from the
same answers (SetFit from 8 a label, as its guide has it, and 150 steps). Students learn with each seed anew; agreement
and accuracy are means over the seeds, on all test texts. Their intervals, those of differences and of shares of the
teacher's accuracy are of a bootstrap that draws texts and seeds, and the same texts for both that are compared. Peers
have one seed: but for SetFit they depend on none. The recipe of `stillhouse_cut3`, of which two layers learn, was
chosen among ten, taught by 6,000 texts, on clinc150's dev part and other training texts, with a seed that does not
judge; taught by those it kept 98.0 % (97.1 to 98.8) of the teacher's accuracy. "less the best peer as fast": of the
peers that answer as many texts a CPU-second or more, that which agrees most.

Speed is of CPU time of the own process, one thread each, all systems asked in turn in one run; ranges are over rounds,
of the students of seed 0. Students run as they serve: one text at a time, redaction and featurising included; the
teacher and the peers in batches of 32.

This teacher reads vectors of the very encoder that static students, the assistant behind their made texts, and
Model2Vec start from, which suits them; students of another teacher may gain less. A fifth of clinc150's test texts
are outside of its intents, and its teacher saw 20 such texts: figures within and outside are given apart, as its paper
does (Larson et al., EMNLP 2019: accuracy in scope, recall out of scope).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from stillhouse.distill.cut_encoder import encoder_source
from stillhouse.models.student import OnnxStudent
from stillhouse.models.teacher import EnsembleTeacher
from tests.benchmarks import meta, peers
from tests.benchmarks.data import shared
from tests.benchmarks.population import CHOICES, Setting, prepare, trained
from tests.benchmarks.report import percent, shown, table

# Packages of each peer's environment; torch for the CPU, where the index has it.
PEERS: dict[str, tuple[str, ...]] = {
    "model2vec": ("model2vec[distill]", "scikit-learn", "torch==2.13.0"),
    "embedding_lr": ("sentence-transformers", "scikit-learn", "torch==2.13.0"),
    "setfit": ("setfit", "transformers<5", "torch==2.13.0"),
}
TFIDF = "tfidf_lr"
ALL_PEERS = (TFIDF, *PEERS)
BATCH = 32
SINGLES = 60  # texts of a round that are asked alone
IN_SCOPE = ("agreement", "agreement_interval", "accuracy", "share_of_teacher", "share_of_teacher_interval")
HEADINGS = (
    "system",
    "texts / CPU-s",
    "× teacher",
    "p50 ms, 1 text",
    "MB",
    "agreement",
    "± s.d. of seeds",
    "less the best peer as fast",
    "accuracy",
    "of the teacher's",
    "training CPU-s",
)
STREAM = "commit_type_stream"
LEARNT = 11_000  # all of clinc150's training texts that neither fit the teacher nor choose
TIMED, JUDGED_OF_STREAM = 2000, 2000
SEEDS, QUICK_SEEDS = 5, 2
ROUNDS = 5
DRAWS, DRAWN_AT_ONCE = 10_000, 500
ON_STREAM = ("stillhouse_hashed_ngrams", "stillhouse_static", "stillhouse_text_cnn", "stillhouse_cut3")
SETFIT_STEPS = 150  # of 16 pairs; its guide has all pairs, which takes hours on one core
FAST, LEAST_TIMES, RIVALS = "stillhouse_static", 20, (TFIDF, "model2vec", "setfit")
CLOSE, LEAST_SHARE = "stillhouse_cut3", 0.98
OUTSIDE = "oos"  # what clinc150 calls texts outside of its intents

# What a system says to texts, and the CPU seconds and seconds that it took.
Ask = Callable[[Sequence[str]], tuple[list[str], float, float]]
Answers = NDArray[np.str_]


@dataclass(slots=True)
class System:
    """A system to be measured: how it is asked, how many texts at once, its answers [seeds, texts], and what it is."""

    ask: Ask
    batch: int
    answers: Answers
    facts: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark; what was trained and answered is kept, and not done again.

    Interrupted while students learn, it gives the figures of the seeds that each has.
    """
    begun = meta.start()
    settings = [(prepare(quick, data, most_learnt=LEARNT), tuple(CHOICES), ALL_PEERS)]
    if data is None and not quick:
        # The past teaches, and what came years later judges: without the slow peers, which say nothing new there.
        stream = prepare(quick, shared(STREAM), most_judged=JUDGED_OF_STREAM)
        settings.append((stream, ON_STREAM, (TFIDF, "model2vec")))
    seeds = range(QUICK_SEEDS if quick else SEEDS)
    learnt: dict[tuple[str, str], list[Path]] = {}
    runs = [(seed, name, setting) for seed in seeds for setting, names, _ in settings for name in names]
    # One seed of all, then the others of those that claims are of: so an interrupted benchmark has figures of every
    # student.
    runs.sort(key=lambda one: (one[0] > 0 and (one[1] not in (FAST, CLOSE)), one[0]))
    try:
        for seed, name, setting in runs:
            learnt.setdefault((setting.digest, name), []).append(trained(name, setting, seed=seed))
    except KeyboardInterrupt:
        if not all((setting.digest, name) in learnt for setting, names, _ in settings for name in names):
            raise
    result: dict[str, Any] = {}
    versions: dict[str, str] = {}
    failed: dict[str, str] = {}
    for setting, names, of_peers in settings:
        folders = {name: learnt[setting.digest, name] for name in names}
        figures, used = _measured(setting, folders, of_peers, failed, quick)
        versions |= used
        result |= figures if setting is settings[0][0] else {STREAM: figures}
    if failed:
        result["not_run"] = failed
    first = settings[0][0]
    packages = ("onnxruntime", "torch", "scikit-learn", "numpy")
    named = ", ".join(setting.data for setting, _, _ in settings)
    result["meta"] = meta.finish(begun, repeats=len(seeds), quick=quick, data=named, packages=packages)
    result["meta"]["versions"] |= versions
    result["meta"]["texts"] = {"learnt": len(first.train) + len(first.select), "asked": len(first.test)}
    return result


def _measured(
    setting: Setting, folders: dict[str, list[Path]], of_peers: Sequence[str], failed: dict[str, str], quick: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Every system on one data set: figures by name, and versions of peers. Those that did not run go to `failed`."""
    texts = [row.text for row in setting.test]
    said = np.array([row.label for row in setting.test])
    truth = np.array(setting.truth)
    systems: dict[str, System] = {}
    with ExitStack() as stack:
        if setting.teacher_folder is not None:
            systems["teacher"] = _teacher(setting.task, setting.teacher_folder, said)
        for name, of in folders.items():
            systems[name] = _student(of, texts)
        for name in of_peers:
            try:
                systems[name] = (
                    _tfidf_lr(setting, texts) if name == TFIDF else _peer(stack, setting, name, texts, quick)
                )
            except peers.PeerFailed as error:
                failed[name] = str(error)
        order = np.random.default_rng(0).permutation(len(texts))[: 300 if quick else TIMED]
        speeds = timed(systems, [texts[i] for i in order], 2 if quick else ROUNDS)
    agrees = {name: of.answers == said for name, of in systems.items()}
    right = {name: of.answers == truth for name, of in systems.items()}
    figures = {
        name: {**of.facts, **speeds[name], "batch": of.batch, "seeds": len(of.answers)} for name, of in systems.items()
    }
    for name, more in compared(agrees, right).items():
        figures[name] |= more
    if (inside := truth != OUTSIDE).any() and not inside.all():
        for name, more in compared(_of(agrees, inside), _of(right, inside)).items():
            figures[name]["in_scope"] = {key: more[key] for key in IN_SCOPE if key in more}
            figures[name]["out_of_scope_recall"] = float(right[name][:, ~inside].mean())
    for name in folders:
        peers_here = [peer for peer in of_peers if peer in figures]
        figures[name]["less_peers"] = {peer: figures[name]["less"].pop(peer) for peer in peers_here}
        as_fast = [one for one in peers_here if figures[one]["texts_per_cpu_s"] >= figures[name]["texts_per_cpu_s"]]
        if as_fast:
            figures[name]["best_peer_as_fast"] = max(as_fast, key=lambda one: float(figures[one]["agreement"]))
    for one in figures.values():
        one.pop("less")
    return figures, {key: value for of in systems.values() for key, value in of.versions.items()}


def timed(systems: dict[str, System], texts: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Speed of each system: all are asked about the same part of `texts` in turn, round by round."""
    cpu: dict[str, list[float]] = {name: [] for name in systems}
    alone: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    counts = []
    for system in systems.values():
        system.ask(texts[:BATCH])  # warm
    for places in np.array_split(np.arange(len(texts)), rounds):
        part = [texts[i] for i in places]
        counts.append(len(part))
        for name, system in systems.items():
            batches = [part[start : start + system.batch] for start in range(0, len(part), system.batch)]
            cpu[name].append(sum(system.ask(batch)[1] for batch in batches))
            alone[name] += [system.ask([text])[1:] for text in part[:SINGLES]]
    found: dict[str, dict[str, Any]] = {}
    for name, spent in cpu.items():
        rates = [count / max(seconds, 1e-9) for count, seconds in zip(counts, spent, strict=True)]
        found[name] = {
            "texts_per_cpu_s": sum(counts) / max(sum(spent), 1e-9),
            "texts_per_cpu_s_range": [min(rates), max(rates)],
            "p50_ms_batch1": 1000 * median(seconds for _, seconds in alone[name]),
            "cpu_ms_batch1": 1000 * median(seconds for seconds, _ in alone[name]),
        }
        if "teacher" in cpu:
            times = [theirs / max(own, 1e-9) for theirs, own in zip(cpu["teacher"], spent, strict=True)]
            found[name]["times_cheaper_than_teacher"] = sum(cpu["teacher"]) / max(sum(spent), 1e-9)
            found[name]["times_cheaper_range"] = [min(times), max(times)]
    return found


def compared(agrees: dict[str, NDArray[np.bool_]], right: dict[str, NDArray[np.bool_]]) -> dict[str, dict[str, Any]]:
    """Agreement and accuracy of each system, and how it stands to the others, with bootstrap intervals.

    `agrees` and `right` bool [seeds, texts] by system. `less`: the difference in agreement to each other system, where
    they have a single seed with McNemar's exact p of each seed of this one.
    """
    drawn_agrees, drawn_right = bootstrap(agrees), bootstrap(right)
    found: dict[str, dict[str, Any]] = {}
    for name, hits in agrees.items():
        of_seeds, accuracy = hits.mean(axis=1), float(right[name].mean())
        found[name] = {
            "agreement": float(hits.mean()),
            "agreement_interval": _interval(drawn_agrees[name]),
            "accuracy": accuracy,
            "accuracy_interval": _interval(drawn_right[name]),
            "less": {},
        }
        if len(hits) > 1:
            found[name] |= {
                "agreement_of_seeds": of_seeds.tolist(),
                "agreement_std": float(of_seeds.std(ddof=1)),
                "accuracy_of_seeds": right[name].mean(axis=1).tolist(),
            }
        if "teacher" in right:
            found[name]["share_of_teacher"] = accuracy / float(right["teacher"].mean())
            found[name]["share_of_teacher_interval"] = _interval(drawn_right[name] / drawn_right["teacher"])
        for other, theirs in agrees.items():
            if other == name or len(theirs) > 1:
                continue
            found[name]["less"][other] = {
                "difference": float(hits.mean() - theirs.mean()),
                "interval": _interval(drawn_agrees[name] - drawn_agrees[other]),
                "mcnemar_p_of_seeds": [mcnemar(own, theirs[0]) for own in hits],
            }
    return found


def _of(hits: dict[str, NDArray[np.bool_]], texts: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Of some texts alone."""
    return {name: of[:, texts] for name, of in hits.items()}


def bootstrap(hits: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.float64]]:
    """Means of `DRAWS` samples drawn with replacement: of texts, the same for all, and of each system's seeds.

    `hits` bool [seeds, texts] by system; float64 [DRAWS] each.
    """
    random = np.random.default_rng(0)
    every = np.concatenate(list(hits.values())).astype(np.float32).T
    texts = every.shape[0]
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in hits}
    for _ in range(DRAWS // DRAWN_AT_ONCE):
        times = random.multinomial(texts, np.full(texts, 1 / texts), size=DRAWN_AT_ONCE).astype(np.float32)
        means = (times @ every / texts).astype(np.float64)
        at = 0
        for name, of in hits.items():
            own = means[:, at : at + len(of)]
            at += len(of)
            places = random.integers(0, len(of), own.shape)
            found[name].append(np.take_along_axis(own, places, axis=1).mean(axis=1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """The exact two-sided p of McNemar's test, of hits bool [texts] of two systems on the same texts."""
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return float(binomtest(only_ours, only_ours + only_theirs).pvalue) if only_ours + only_theirs else 1.0


def _interval(values: NDArray[np.float64]) -> list[float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]


def _clocked(predict: Callable[[Sequence[str]], list[str]]) -> Ask:
    """A system of this process."""

    def ask(texts: Sequence[str]) -> tuple[list[str], float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        answers = predict(texts)
        return answers, time.process_time() - cpu, time.perf_counter() - wall

    return ask


def _teacher(task: Any, folder: Path, said: Answers) -> System:
    """The teacher, whose answers are known."""
    model = EnsembleTeacher(task, folder)
    folders = (folder, folder.parents[3] / "encoders")
    size = sum(file.stat().st_size for one in folders for file in one.rglob("*") if file.is_file())
    facts = {"bytes": size, "how": "encoder fp32, ONNX Runtime; head fitted on the seed"}
    return System(_clocked(lambda texts: [one.output for one in model.predict(texts)]), BATCH, said[None], facts)


def _student(folders: Sequence[Path], texts: list[str]) -> System:
    """A student: the answers of every seed, and the first to be timed."""

    def asked(folder: Path) -> Ask:
        student = OnnxStudent(folder)
        return _clocked(lambda some: [student.predict_text(text)[0] for text in some])

    answers = np.array([_known(folder, texts, partial(asked, folder), 1) for folder in folders])
    of_seeds = [json.loads((folder / "trained.json").read_text(encoding="utf-8")) for folder in folders]
    facts = {key: value for key, value in of_seeds[0].items() if key != "recipe"}
    bits = f"int{facts.pop('table_bits')} tables, int{facts.pop('matrix_bits')} matrices".replace("int32", "fp32")
    facts["training_cpu_s"] = float(np.mean([of["training_cpu_s"] for of in of_seeds]))
    return System(asked(folders[0]), 1, answers, {**facts, "how": f"{bits}, ONNX Runtime"})


def _peer(stack: ExitStack, setting: Setting, name: str, texts: list[str], quick: bool) -> System:
    """A peer, kept beside the students once it has learnt; it answers from a process of its own until `stack` ends."""
    job: dict[str, Any] = {
        "kind": name,
        "encoder": str(encoder_source()),
        "train": [(row.text, row.label) for row in setting.train + setting.select],
        "steps": 50 if quick else SETFIT_STEPS,
    }
    digest = _digest([name, PEERS[name], job["steps"] if name == "setfit" else None, job["train"]])
    folder = peers.HOME / "population" / setting.digest / f"{name}-{digest}"
    path = folder / "learnt.json"
    if not path.exists():
        found = peers.run(name, PEERS[name], "classifiers.py", job | {"folder": str(folder)}, timeout_s=3600)
        path.write_text(json.dumps(found), encoding="utf-8")
        print(f"{name} has learnt", file=sys.stderr)
    facts = json.loads(path.read_text(encoding="utf-8"))
    versions = facts.pop("version")
    process = stack.enter_context(peers.Asked(name, PEERS[name], "classifiers.py", str(folder)))

    def ask(some: Sequence[str]) -> tuple[list[str], float, float]:
        answers, cpu, wall = process(list(some))
        return answers, cpu, wall

    return System(ask, BATCH, np.array([_known(folder, texts, lambda: ask, BATCH)]), facts, versions)


def _tfidf_lr(setting: Setting, texts: list[str]) -> System:
    """scikit-learn's TF-IDF of words and pairs with logistic regression, on the same answers."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = setting.train + setting.select
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000, C=10)
    )
    cpu = time.process_time()
    model.fit([row.text for row in rows], [row.label for row in rows])
    spent = time.process_time() - cpu
    how = f"words and pairs, C = 10, on {len(rows)} answers"
    ask = _clocked(lambda some: [str(label) for label in model.predict(list(some))])
    facts = {"bytes": len(pickle.dumps(model)), "training_cpu_s": spent, "how": how}
    return System(ask, BATCH, np.array([ask(texts)[0]]), facts)


def _known(folder: Path, texts: list[str], opened: Callable[[], Ask], batch: int) -> list[str]:
    """The answers to `texts`, kept in `folder`; only where they are not there is the system opened."""
    path = folder / f"answers-{_digest(texts)}.json"
    if not path.exists():
        ask = opened()
        answers = [answer for at in range(0, len(texts), batch) for answer in ask(texts[at : at + batch])[0]]
        path.write_text(json.dumps(answers), encoding="utf-8")
    kept: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def _digest(of: Any) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:12]


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown, and what their intervals say of the two students that others are read beside."""
    lines = f"{_table(result)}\n\n{_claims(result)}"
    if "in_scope" in result[FAST]:
        lines += f"\n\n{_scopes(result)}"
    if STREAM in result:
        lines += f"\n\n{STREAM}: learnt from 2016 and 2017, asked about 2019 to 2026\n\n{_table(result[STREAM])}"
    return lines + "".join(f"\n\nNot run: {why}." for why in result.get("not_run", {}).values())


def _table(result: dict[str, Any]) -> str:
    rows = []
    for name, of in result.items():
        if name in ("meta", "not_run", STREAM):
            continue
        peer = of.get("best_peer_as_fast")
        rows.append(
            [
                name,
                of["texts_per_cpu_s"],
                _times(of) if "times_cheaper_range" in of else None,
                of["p50_ms_batch1"],
                of["bytes"] / 1e6,
                _share(of["agreement"], of["agreement_interval"]),
                f"{100 * of['agreement_std']:.1f} ({of['seeds']})" if "agreement_std" in of else None,
                None if peer is None else f"{_points(of['less_peers'][peer])} {peer}",
                percent(of["accuracy"]),
                _share(of["share_of_teacher"], of["share_of_teacher_interval"]) if "share_of_teacher" in of else None,
                of.get("training_cpu_s"),
            ]
        )
    return table(HEADINGS, rows)


def _scopes(result: dict[str, Any]) -> str:
    """Within the data's intents, and outside of them."""
    rows = [
        [
            name,
            _share(within["agreement"], within["agreement_interval"]),
            percent(within["accuracy"]),
            _share(within["share_of_teacher"], within["share_of_teacher_interval"]),
            percent(of["out_of_scope_recall"]),
        ]
        for name, of in result.items()
        if (within := of.get("in_scope"))
    ]
    return table(("in scope", "agreement", "accuracy", "of the teacher's", "recall out of scope"), rows)


def _claims(result: dict[str, Any]) -> str:
    """Whether the intervals support what is said of the fastest and of the closest student."""
    said = []
    if "times_cheaper_range" in (fast := result[FAST]):
        less = {name: fast["less_peers"][name] for name in RIVALS if name in fast["less_peers"]}
        holds = fast["times_cheaper_range"][0] >= LEAST_TIMES and all(of["interval"][0] > 0 for of in less.values())
        others = ", ".join(f"{_points(of)} than {name}" for name, of in less.items())
        said.append(
            f"`{FAST}` is {_times(fast)} times as fast as the teacher and agrees more: {others}. That it is at least "
            f"{LEAST_TIMES} times as fast and agrees more than each of them is {'' if holds else 'not '}shown."
        )
        close = result[CLOSE]
        for where, of in ((" of its accuracy", close), (" of that in scope", close.get("in_scope"))):
            if of is not None:
                low = of["share_of_teacher_interval"][0]
                said.append(
                    f"`{CLOSE}` keeps {_share(of['share_of_teacher'], of['share_of_teacher_interval'])}{where}. "
                    f"That it keeps at least {percent(LEAST_SHARE, 0)} is {'' if low >= LEAST_SHARE else 'not '}shown."
                )
    return " ".join(said)


def _times(of: dict[str, Any]) -> str:
    low, high = of["times_cheaper_range"]
    return f"{shown(float(of['times_cheaper_than_teacher']))} ({shown(float(low))}–{shown(float(high))})"


def _share(value: float, interval: Sequence[float]) -> str:
    return f"{percent(value)} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


def _points(of: dict[str, Any]) -> str:
    low, high = of["interval"]
    return f"{100 * of['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
