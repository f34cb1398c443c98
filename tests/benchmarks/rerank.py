"""`rerank`: how well and how fast students rank, beside the cross-encoder that taught them and beside BM25.

The teacher is a cross-encoder made here from MiniLM: all six layers, 128 tokens of claim and passage, float32, trained
on judged lists; BM25 and four other counts of shared words are features of its score, and of every student's. The
students keep all layers, learn its scores (listwise KL) of the judged lists and of unjudged ones, and serve in int8.
What is read of a document is its first sentence and those that share rare words with the query: 48 tokens by the
bi-encoder, 64 with the claim by the cross-encoder. `_kept` is a bi-encoder that learns and reads the first 96 tokens of
a document, with the rate of the peer below, so that vectors of documents do not depend on the query: its speed is with
all of them known before, and with none in the line below the table.

nDCG@10 has gains 2^relevance - 1; where a student has several seeds, figures are means over them. Intervals are of a
bootstrap that draws queries and seeds, the same queries for both that are compared. Speed is of CPU time of the own
process, one thread each, of seed 0, all systems in turn on each twenty of the first lists; words, passages, tokens and
redaction included; ranges are over those twenties.

The peers are sentence-transformers' bi-encoder of the same MiniLM, which reads the first 96 tokens: as it comes, and
fine-tuned whole from the same teacher's scores of the same lists by its listwise KL (`DistillKLDivLoss`, its usual
rate, as many passes; one seed). They do without BM25. As both are one network, the first is timed for both. The second
table has the bi-encoder of seed 0 taught by each objective in turn, with all else alike, and by the judgements alone;
differences are from listwise KL, paired by query. All but `random negatives` learn of each list what is relevant and
what BM25 finds hardest to tell from it; that one learns other documents of the same lists, drawn at random.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.distill.cut_encoder import encoder_source
from stillhouse.distill.rerankers.lists import RankedList
from stillhouse.models.rerank_student import OnnxReranker
from stillhouse.models.rerank_text import Lexicon
from stillhouse.tasks import RerankerStudent
from tests.benchmarks import meta, peers
from tests.benchmarks.report import shown, table
from tests.benchmarks.rerank_data import (
    Lists,
    Measured,
    hard,
    load_lists,
    said_by_peer,
    taught,
    trained,
)

DOCUMENTS = 6  # of a list that teach
CHUNK = 20
DRAWS = 10_000
K = 10
SEEDS = 5  # of the students in SEVERAL; others have one
MAIN, KEPT, KEPT_TOKENS = "stillhouse_bi_encoder", "stillhouse_kept", 96
SEVERAL = (MAIN, KEPT)  # the other one takes several times as long to learn
TIMED = 100  # lists
COLD_OF, KEPT_OF = "cold", "peer_kept"  # vectors of documents computed anew; those of the peer known
LEAST_TIMES, LEAST_SHARE = 5, 0.97
TEACHER = RerankerStudent(
    architecture="cross_encoder",
    layers=6,
    learn_layers=2,
    max_tokens=128,
    epochs=2,
    alpha=1.0,
    learning_rate=2e-5,
    quantization="none",
)
STUDENTS = {
    MAIN: RerankerStudent(architecture="bi_encoder", max_tokens=48, epochs=2, learn_layers=1, learning_rate=5e-5),
    "stillhouse_cross_encoder": RerankerStudent(
        architecture="cross_encoder", max_tokens=64, epochs=2, learn_layers=1, learning_rate=5e-5
    ),
    KEPT: RerankerStudent(
        architecture="bi_encoder",
        reads="beginning",
        max_tokens=KEPT_TOKENS,
        epochs=2,
        learn_layers=1,
        learning_rate=2e-5,
    ),
}
# The main student otherwise taught. Judgements alone teach from the judged lists.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "margin_mse": {"objective": "margin_mse"},
    "lambda_loss": {"objective": "lambda_loss"},
    "supervised_mse": {"objective": "supervised_mse"},
    "judgements alone": {"alpha": 1.0},
}
RANDOM = "random negatives"  # by listwise KL
# name: epochs. sentence-transformers' bi-encoder of the teacher's own encoder.
PEER = "sentence_transformers"
PEERS = {"sentence_transformers": 0, "sentence_transformers_distilled": 2}
PEER_PACKAGES = ("sentence-transformers[train]", "torch==2.13.0")
HEADINGS = (
    "system",
    "nDCG@10",
    "less BM25",
    "of the teacher's",
    "MRR",
    "lists / CPU-s",
    "× teacher",
    "p50 ms a list",
    "MB",
    "± s.d. of seeds",
)

Scores = Callable[[RankedList], Sequence[float]]
Timed = Callable[[RankedList], tuple[float, float]]  # CPU seconds and seconds of a list
Quality = tuple[NDArray[np.float64], NDArray[np.float64]]  # nDCG@10 and MRR of each list, [seeds, lists]


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark; what was trained, scored and timed is kept, and not done again.

    Interrupted while students learn, it gives the figures of the seeds and objectives that are there.
    """
    begun = meta.start()
    lists = load_lists(data)
    if quick:
        lists = lists.cut(40)
    lexicon = lists.lexicon()
    judged, select = hard(lists.train, lexicon, DOCUMENTS), hard(lists.select, lexicon, DOCUMENTS)
    teacher = trained("teacher", TEACHER, judged, select, lexicon)
    learnt = taught(teacher, [*judged, *hard(lists.unjudged, lexicon, DOCUMENTS)])
    chosen = taught(teacher, select)
    folders: dict[str, list[Path]] = {"teacher": [teacher]}
    runs = [(seed, name) for seed in range(1 if quick else SEEDS) for name in STUDENTS if seed == 0 or name in SEVERAL]
    runs.sort(key=lambda one: (one[0] > 0, one[1] == KEPT))  # one seed of all first: each is there if interrupted
    try:
        for seed, name in runs:
            one = STUDENTS[name].model_copy(update={"seed": seed})
            folders.setdefault(name, []).append(trained(f"{name}-{seed}", one, learnt, chosen, lexicon))
    except KeyboardInterrupt:
        if folders.keys() < STUDENTS.keys():
            raise
    otherwise = {"listwise_kl": folders[MAIN][0]}
    try:
        for name, change in OBJECTIVES.items():
            of = (judged, select) if "alpha" in change else (learnt, chosen)
            student = STUDENTS[MAIN].model_copy(update=change)
            otherwise[name] = trained(f"{MAIN}-{name.replace(' ', '_')}", student, *of, lexicon)
        drawn = [hard(part, lexicon, DOCUMENTS, at_random=True) for part in (lists.train, lists.unjudged)]
        of_random = taught(teacher, [*drawn[0], *drawn[1]])
        otherwise[RANDOM] = trained(f"{MAIN}-random_negatives", STUDENTS[MAIN], of_random, chosen, lexicon)
    except KeyboardInterrupt:
        pass
    said, failed = _peers(learnt, lists.test, quick)
    result = _measured(lists, lexicon, folders, said)
    packages = ("onnxruntime", "torch", "transformers", "numpy")
    result["meta"] = meta.finish(begun, repeats=len(folders[MAIN]), quick=quick, data=lists.name, packages=packages)
    if len(otherwise) > 1:
        result["objectives"] = _objectives(lists.test, otherwise)
    result["meta"]["versions"] |= {name: of for one in said.values() for name, of in one["version"].items()}
    result |= {"not_run": failed} if failed else {}
    result["meta"]["lists"] = {
        "judged": len(judged),
        "unjudged": len(learnt) - len(judged),
        "asked": len(lists.test),
        "documents_a_list": round(float(np.mean([len(one.documents) for one in lists.test])), 1),
    }
    return result


def _peers(
    learnt: Sequence[RankedList], test: Sequence[RankedList], quick: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the peers said, and why those failed that did. They take lists of one length."""
    same = [one for one in learnt if len(one.documents) == DOCUMENTS and one.teacher is not None]
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, epochs in PEERS.items():
        job = {
            "encoder": str(encoder_source()),
            "max_tokens": KEPT_TOKENS,
            "epochs": min(epochs, 1) if quick else epochs,
            "rate": 2e-5,
            "batch": 8,
            "train": [(one.query, one.documents, one.teacher) for one in same],
            "test": [(one.query, one.documents) for one in test],
        }
        try:
            found[name] = said_by_peer(PEER, PEER_PACKAGES, job)
        except peers.PeerFailed as error:
            failed[name] = str(error)
    return found, failed


def _objectives(test: Sequence[RankedList], folders: dict[str, Path]) -> dict[str, Any]:
    """How well the same student ranks, by what it was taught with."""
    found = {name: _quality(test, [_said(folder, test)])[0][0] for name, folder in folders.items()}
    base = next(iter(found.values()))
    draws = np.random.default_rng(1).integers(0, len(test), (DRAWS, len(test)))
    return {
        name: {
            "ndcg_at_10": float(ndcg.mean()),
            "less_first": float((ndcg - base).mean()),
            "less_first_interval": _interval((ndcg - base)[draws].mean(axis=1)),
        }
        for name, ndcg in found.items()
    }


def _measured(
    lists: Lists, lexicon: Lexicon, folders: dict[str, list[Path]], of_peers: dict[str, Any]
) -> dict[str, Any]:
    said: dict[str, list[Sequence[Sequence[float]]]] = {
        "teacher": [_said(folders["teacher"][0], lists.test, redacts=False)],
        "bm25": [[_bm25(lexicon, one) for one in lists.test]],
    }
    said |= {name: [_said(one, lists.test) for one in of] for name, of in folders.items() if name != "teacher"}
    said |= {name: [of["scores"]] for name, of in of_peers.items()}
    quality = {name: _quality(lists.test, of) for name, of in said.items()}
    result = _ranked(quality)
    times = _timed(lists.test[:TIMED], lexicon, {name: of[0] for name, of in folders.items()}, bool(of_peers))
    for name, of in result.items():
        timed = PEER if name in PEERS else name
        if timed in times:
            of |= _speed(times["teacher"], times[timed])
        if name in folders:
            of |= json.loads((folders[name][0] / "trained.json").read_text(encoding="utf-8"))
        if name in of_peers:
            of |= {key: of_peers[name][key] for key in ("bytes", "training_cpu_s", "how")}
            if PEER in times:
                of["times_faster_than_teacher_kept"] = _speed(times["teacher"], times[KEPT_OF])[
                    "times_faster_than_teacher"
                ]
    cold = _speed(times["teacher"], times[COLD_OF])
    result[KEPT] |= {f"{key}_cold": cold[key] for key in ("lists_per_cpu_s", "times_faster_than_teacher")}
    result[KEPT]["times_faster_range_cold"] = cold["times_faster_range"]
    return result


def _ranked(quality: dict[str, Quality]) -> dict[str, Any]:
    """How well each system ranks, beside BM25 and the teacher, with bootstrap intervals."""
    drawn = {name: bootstrap(ndcg) for name, (ndcg, _) in quality.items()}
    result: dict[str, Any] = {}
    for name, (ndcg, mrr) in quality.items():
        result[name] = {
            "ndcg_at_10": float(ndcg.mean()),
            "ndcg_at_10_interval": _interval(drawn[name]),
            "mrr": float(mrr.mean()),
            "less_bm25": float(ndcg.mean() - quality["bm25"][0].mean()),
            "less_bm25_interval": _interval(drawn[name] - drawn["bm25"]),
            "share_of_teacher": float(ndcg.mean() / quality["teacher"][0].mean()),
            "share_of_teacher_interval": _interval(drawn[name] / drawn["teacher"]),
            "seeds": len(ndcg),
        }
        if len(ndcg) > 1:
            of_seeds = ndcg.mean(axis=1)
            result[name] |= {"ndcg_at_10_of_seeds": of_seeds.tolist(), "ndcg_at_10_std": float(of_seeds.std(ddof=1))}
    return result


def bootstrap(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of `DRAWS` samples of `values` [seeds, lists], drawn with replacement: lists, the same at each call, and
    seeds.
    """
    seeds, lists = values.shape
    places = np.random.default_rng(0).integers(0, lists, (DRAWS, lists))
    means = np.stack([of[places].mean(axis=1) for of in values], axis=1)
    drawn = np.random.default_rng(1).integers(0, seeds, (DRAWS, seeds))
    return np.asarray(np.take_along_axis(means, drawn, axis=1).mean(axis=1), dtype=np.float64)


def _timed(
    test: Sequence[RankedList], lexicon: Lexicon, folders: dict[str, Path], with_peer: bool
) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds and seconds of each list, by system: all in turn on every chunk."""
    done = Measured([*(folder.name for folder in folders.values()), f"peer {with_peer}"], test)
    found: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        systems: dict[str, Timed] = {}
        for start in range(0, len(test), CHUNK):
            part = test[start : start + CHUNK]
            if (chunk := done.get(start)) is None:
                systems = systems or _systems(stack, lexicon, folders, with_peer)
                for name in (KEPT, KEPT_OF):
                    for one in part if name in systems else ():
                        systems[name](one)  # from here on its vectors are known
                chunk = {name: [system(one) for one in part] for name, system in systems.items()}
                done.put(start, chunk)
            for name, times in chunk.items():
                found.setdefault(name, []).extend((cpu, wall) for cpu, wall in times)
    return found


def _systems(stack: ExitStack, lexicon: Lexicon, folders: dict[str, Path], with_peer: bool) -> dict[str, Timed]:
    """Everything that is timed. The peer answers from a process of its own until `stack` ends."""
    systems = {"bm25": _clocked(lambda one: _bm25(lexicon, one))}
    for name, folder in folders.items():
        keeps = {} if name == KEPT else {"keep": 0}
        systems[name] = _clocked(_scores(OnnxReranker(folder, redacts=name != "teacher", **keeps)))
    systems[COLD_OF] = _clocked(_scores(OnnxReranker(folders[KEPT], keep=0)))
    if with_peer:
        arguments = (str(encoder_source()), str(KEPT_TOKENS))
        process = stack.enter_context(peers.Asked(PEER, PEER_PACKAGES, "rerankers.py", *arguments))

        def asked(one: RankedList, kept: bool) -> tuple[float, float]:
            cpu, wall = process([one.query, list(one.documents), kept])
            return cpu, wall

        systems[PEER] = lambda one: asked(one, False)
        systems[KEPT_OF] = lambda one: asked(one, True)
    return systems


def _clocked(scores: Scores) -> Timed:
    """A system of this process."""

    def timed(one: RankedList) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        scores(one)
        return time.process_time() - cpu, time.perf_counter() - wall

    return timed


def _speed(teacher: Sequence[tuple[float, float]], own: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Lists a CPU-second, the middle wait, and how it compares with the teacher, altogether and of each chunk."""
    theirs, ours = (
        [sum(cpu for cpu, _ in of[at : at + CHUNK]) for at in range(0, len(of), CHUNK)] for of in (teacher, own)
    )
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    return {
        "lists_per_cpu_s": len(own) / sum(ours),
        "p50_ms": 1000 * float(np.median([wall for _, wall in own])),
        "times_faster_than_teacher": sum(theirs) / sum(ours),
        "times_faster_range": [min(ratios), max(ratios)],
    }


def _bm25(lexicon: Lexicon, one: RankedList) -> list[float]:
    found: list[float] = lexicon.features(one.query, one.documents)[:, 0].tolist()
    return found


def _said(folder: Path, lists: Sequence[RankedList], *, redacts: bool = True) -> list[Sequence[float]]:
    """A model's scores of the lists."""
    return [one.teacher or () for one in taught(folder, lists, redacts=redacts)]


def _scores(model: OnnxReranker) -> Scores:
    return lambda one: model.scores(one.query, one.documents).tolist()


def _quality(lists: Sequence[RankedList], of_seeds: Sequence[Sequence[Sequence[float]]]) -> Quality:
    """nDCG@10 and the reciprocal rank of the first relevant document, each [seeds, lists]."""
    found = np.array(
        [
            [
                (ndcg_at(K, one.relevance or (), scores), reciprocal_rank(one.relevance or (), scores))
                for one, scores in zip(lists, said, strict=True)
            ]
            for said in of_seeds
        ]
    )
    return found[:, :, 0], found[:, :, 1]


def ndcg_at(k: int, relevance: Sequence[float], scores: Sequence[float]) -> float:
    """Discounted gains 2^relevance - 1 of the first `k` by score, over the best possible; 0 with none relevant."""
    gains = [2.0**grade - 1.0 for grade in relevance]
    order = sorted(range(len(gains)), key=lambda place: (-scores[place], place))
    best = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(gains, reverse=True)[:k]))
    found = sum(gains[place] / math.log2(rank + 2) for rank, place in enumerate(order[:k]))
    return found / best if best else 0.0


def reciprocal_rank(relevance: Sequence[float], scores: Sequence[float]) -> float:
    """One over the rank of the first relevant document; 0 with none."""
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return next((1.0 / rank for rank, place in enumerate(order, start=1) if relevance[place] > 0), 0.0)


def _interval(values: NDArray[np.float64]) -> list[float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return [float(low), float(high)]


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown, and what their intervals say."""
    rows = [
        [
            name,
            _with(of["ndcg_at_10"], of["ndcg_at_10_interval"]),
            _with(of["less_bm25"], of["less_bm25_interval"]),
            _with(of["share_of_teacher"], of["share_of_teacher_interval"]),
            f"{of['mrr']:.3f}",
            of.get("lists_per_cpu_s"),
            _times(of) if "times_faster_range" in of else None,
            of.get("p50_ms"),
            of["bytes"] / 1e6 if "bytes" in of else None,
            f"{of['ndcg_at_10_std']:.3f} ({of['seeds']})" if "ndcg_at_10_std" in of else None,
        ]
        for name, of in result.items()
        if name not in ("meta", "not_run", "objectives")
    ]
    kept = result[KEPT]
    speed, times = shown(kept["lists_per_cpu_s_cold"]), shown(kept["times_faster_than_teacher_cold"])
    cold = f"With no vector known before, `{KEPT}` does {speed} lists a CPU-second, {times} × the teacher's."
    for name in PEERS:
        if "times_faster_than_teacher_kept" in result.get(name, {}):
            times = shown(result[name]["times_faster_than_teacher_kept"])
            cold += f" With all of them known, `{name}` is {times} × as fast as the teacher ({result[name]['how']})."
    lines = [table(HEADINGS, rows), _claims(result), cold]
    if "objectives" in result:
        of_objectives = [
            [name, f"{of['ndcg_at_10']:.3f}", _with(of["less_first"], of["less_first_interval"])]
            for name, of in result["objectives"].items()
        ]
        lines.append(table(("taught by", "nDCG@10", "less listwise KL"), of_objectives))
    lines += [f"Not run: {name}, {why}." for name, why in result.get("not_run", {}).items()]
    return "\n\n".join(lines)


def _claims(result: dict[str, Any]) -> str:
    """Which students the intervals show to be fast and to rank nearly as well as the teacher."""
    teacher = result["teacher"]
    beats = (
        "ranks better than BM25" if teacher["less_bm25_interval"][0] > 0 else "is not shown to rank better than BM25"
    )
    said = [f"The teacher {beats}."]
    for name in STUDENTS:
        of = result[name]
        fast, near = of["times_faster_range"][0] >= LEAST_TIMES, of["share_of_teacher_interval"][0] >= LEAST_SHARE
        said.append(
            f"`{name}`: at least {LEAST_TIMES} times as fast in every twenty lists is {'' if fast else 'not '}shown, "
            f"at least {100 * LEAST_SHARE:.0f} % of its nDCG@10 is {'' if near else 'not '}shown."
        )
    return " ".join(said)


def _times(of: dict[str, Any]) -> str:
    low, high = of["times_faster_range"]
    return f"{shown(float(of['times_faster_than_teacher']))} ({shown(float(low))}–{shown(float(high))})"


def _with(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f}–{interval[1]:.3f})"
