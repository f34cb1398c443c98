"""`rerank`: how well and how fast students rank, beside the cross-encoder that taught them and beside BM25.

The teacher is a cross-encoder made here from MiniLM: all six layers, 128 tokens of claim and passage, float32, trained
on judged lists; BM25 and four other counts of shared words are features of its score, and of every student's. The
students keep all layers, learn its scores (listwise KL) of the judged lists and of unjudged ones, and serve in int8.
What is read of a document is its first sentence and those that share rare words with the query: 48 tokens by the
bi-encoder, 64 with the claim by the cross-encoder. `_kept` is the bi-encoder that reads the first 96 tokens of a
document instead, so that vectors of documents do not depend on the query: it is measured with all of them known
before, and on the first 60 lists with none (the line below the table). nDCG@10 has gains 2^relevance - 1; intervals
are of a paired bootstrap over queries. One thread each, CPU time of the own process, all systems in turn on each
twenty lists; words, passages, tokens and redaction included. The peers are sentence-transformers' bi-encoder of the
same MiniLM, which reads the first 96 tokens: as it comes, and fine-tuned whole from the same teacher's scores of the
same lists by its listwise KL (`DistillKLDivLoss`, its usual rate, as many passes). They do without BM25, and ran one
after the other, each in a process of its own. The second table has the bi-encoder taught by each objective in turn,
with all else alike, and by the judgements alone; differences are from listwise KL, paired by query.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
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
    reading_beginnings,
    said_by_peer,
    taught,
    trained,
)

DOCUMENTS = 6  # of a list that teach
CHUNK = 20
DRAWS = 10_000
K = 10
SEEDS = (0, 1, 2)
MAIN, KEPT, KEPT_TOKENS = "stillhouse_bi_encoder", "stillhouse_kept", 96
COLD_OF = "cold"
COLD = 3  # chunks on which vectors are computed anew, which changes no score
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
}
# The main student otherwise taught. Judgements alone teach from the judged lists.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "margin_mse": {"objective": "margin_mse"},
    "lambda_loss": {"objective": "lambda_loss"},
    "supervised_mse": {"objective": "supervised_mse"},
    "judgements alone": {"alpha": 1.0},
}
# name: epochs. sentence-transformers' bi-encoder of the teacher's own encoder.
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
    "nDCG@10 of seeds",
)

Scores = Callable[[RankedList], Sequence[float]]


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
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
    for name, candidate in STUDENTS.items():
        seeds = SEEDS if name == MAIN and not quick else SEEDS[:1]
        folders[name] = [
            trained(f"{name}-{seed}", candidate.model_copy(update={"seed": seed}), learnt, chosen, lexicon)
            for seed in seeds
        ]
    folders[KEPT] = [reading_beginnings(folders[MAIN][0], KEPT_TOKENS)]
    otherwise = {}
    for name, change in OBJECTIVES.items():
        of = (judged, select) if "alpha" in change else (learnt, chosen)
        student = STUDENTS[MAIN].model_copy(update=change)
        otherwise[name] = trained(f"{MAIN}-{name.replace(' ', '_')}", student, *of, lexicon)
    said, failed = _peers(learnt, lists.test, quick)
    result = _measure(lists, lexicon, folders, said)
    packages = ("onnxruntime", "torch", "transformers", "numpy")
    result["meta"] = meta.finish(begun, repeats=len(SEEDS), quick=quick, data=lists.name, packages=packages)
    result["objectives"] = _objectives(lists.test, {"listwise_kl": folders[MAIN][0]} | otherwise)
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
    """What the peers said and took, and why those failed that did. They take lists of one length."""
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
            found[name] = said_by_peer("sentence_transformers", PEER_PACKAGES, job)
        except peers.PeerFailed as error:
            failed[name] = str(error)
    return found, failed


def _objectives(test: Sequence[RankedList], folders: dict[str, Path]) -> dict[str, Any]:
    """How well the same student ranks, by what it was taught with."""
    found = {
        name: _quality(test, [one.teacher or () for one in taught(folder, test, redacts=True)])[0]
        for name, folder in folders.items()
    }
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


def _measure(
    lists: Lists, lexicon: Lexicon, folders: dict[str, list[Path]], of_peers: dict[str, Any]
) -> dict[str, Any]:
    systems: dict[str, Scores] = {"bm25": lambda one: lexicon.features(one.query, one.documents)[:, 0].tolist()}
    for name, of in folders.items():
        systems[name] = _scores(OnnxReranker(of[0], redacts=name != "teacher", keep=0))
    cold, systems[KEPT] = systems[KEPT], _scores(OnnxReranker(folders[KEPT][0]))
    cpu: dict[str, list[float]] = {name: [] for name in systems}
    wall: dict[str, list[float]] = {name: [] for name in systems}
    said: dict[str, list[Sequence[float]]] = {name: [] for name in systems}
    spent_cold: list[float] = []
    done = Measured([str(folder) for of in folders.values() for folder in of], lists.test)
    for start in range(0, len(lists.test), CHUNK):
        part = lists.test[start : start + CHUNK]
        if (found := done.get(start)) is None:
            for one in part:
                systems[KEPT](one)  # from here on its vectors are known
            found = {name: [_timed(scores, one) for one in part] for name, scores in systems.items()}
            if start < COLD * CHUNK:
                found[COLD_OF] = [_timed(cold, one) for one in part]
            done.put(start, found)
        for name in systems:
            said[name] += [scores for scores, _, _ in found[name]]
            cpu[name] += [seconds for _, seconds, _ in found[name]]
            wall[name] += [seconds for _, _, seconds in found[name]]
        spent_cold += [seconds for _, seconds, _ in found.get(COLD_OF, [])]
    for name, of_peer in of_peers.items():
        said[name], cpu[name], wall[name] = of_peer["scores"], of_peer["cpu_s"], of_peer["wall_s"]
    quality = {name: _quality(lists.test, found) for name, found in said.items()}
    draws = np.random.default_rng(0).integers(0, len(lists.test), (DRAWS, len(lists.test)))
    result: dict[str, Any] = {}
    for name in ("teacher", *(name for name in said if name != "teacher")):
        ndcg, mrr = quality[name]
        less = _interval((ndcg - quality["bm25"][0])[draws].mean(axis=1))
        ratio = _interval(ndcg[draws].mean(axis=1) / quality["teacher"][0][draws].mean(axis=1))
        of = folders.get(name, [])
        facts = json.loads((of[0] / "trained.json").read_text(encoding="utf-8")) if of else {}
        chunks = zip(_chunks(cpu["teacher"]), _chunks(cpu[name]), strict=True)
        speeds = [theirs / own for theirs, own in chunks]
        result[name] = {
            "ndcg_at_10": float(ndcg.mean()),
            "ndcg_at_10_interval": _interval(ndcg[draws].mean(axis=1)),
            "mrr": float(mrr.mean()),
            "lists_per_cpu_s": len(lists.test) / sum(cpu[name]),
            "p50_ms": 1000 * float(np.median(wall[name])),
            "less_bm25": float((ndcg - quality["bm25"][0]).mean()),
            "less_bm25_interval": less,
            "share_of_teacher": float(ndcg.mean() / quality["teacher"][0].mean()),
            "share_of_teacher_interval": ratio,
            "times_faster_than_teacher": sum(cpu["teacher"]) / sum(cpu[name]),
            "times_faster_range": [min(speeds), max(speeds)],
            **facts,
        }
        if name in of_peers:
            kept_s = sum(of_peers[name]["kept_cpu_s"])
            result[name] |= {key: of_peers[name][key] for key in ("bytes", "training_cpu_s", "how")}
            result[name]["times_faster_than_teacher_kept"] = sum(cpu["teacher"]) / kept_s
        if len(of) > 1:
            others = [OnnxReranker(folder) for folder in of[1:]]
            found = [_quality(lists.test, [_scores(model)(one) for one in lists.test])[0] for model in others]
            means = [float(ndcg.mean()), *(float(values.mean()) for values in found)]
            result[name] |= {"seeds": len(of), "ndcg_at_10_of_seeds": means}
    n = len(spent_cold)
    result[KEPT] |= {
        "lists_per_cpu_s_cold": n / sum(spent_cold),
        "times_faster_than_teacher_cold": sum(cpu["teacher"][:n]) / sum(spent_cold),
    }
    return result


def _timed(scores: Scores, one: RankedList) -> tuple[Sequence[float], float, float]:
    """The scores of a list, CPU seconds and seconds."""
    before, began = time.process_time(), time.perf_counter()
    said = scores(one)
    return said, time.process_time() - before, time.perf_counter() - began


def _chunks(values: Sequence[float]) -> list[float]:
    return [sum(values[start : start + CHUNK]) for start in range(0, len(values), CHUNK)]


def _scores(model: OnnxReranker) -> Scores:
    return lambda one: model.scores(one.query, one.documents).tolist()


def _quality(
    lists: Sequence[RankedList], said: Sequence[Sequence[float]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """nDCG@10 and the reciprocal rank of the first relevant document, of each list."""
    both = [
        (ndcg_at(K, one.relevance or (), scores), reciprocal_rank(one.relevance or (), scores))
        for one, scores in zip(lists, said, strict=True)
    ]
    found = np.array(both)
    return found[:, 0], found[:, 1]


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
    """The printed table, in Markdown."""
    rows = [
        [
            name,
            _with(of["ndcg_at_10"], of["ndcg_at_10_interval"]),
            _with(of["less_bm25"], of["less_bm25_interval"]),
            _with(of["share_of_teacher"], of["share_of_teacher_interval"]),
            f"{of['mrr']:.3f}",
            of["lists_per_cpu_s"],
            of["times_faster_than_teacher"],
            of["p50_ms"],
            of["bytes"] / 1e6 if "bytes" in of else None,
            ", ".join(f"{value:.3f}" for value in of["ndcg_at_10_of_seeds"]) if "ndcg_at_10_of_seeds" in of else None,
        ]
        for name, of in result.items()
        if name not in ("meta", "not_run", "objectives")
    ]
    kept = result[KEPT]
    speed, times = shown(kept["lists_per_cpu_s_cold"]), shown(kept["times_faster_than_teacher_cold"])
    cold = f"With no vector known before, `stillhouse_kept` does {speed} lists a CPU-second, {times} × the teacher's."
    for name in PEERS:
        if name in result:
            times = shown(result[name]["times_faster_than_teacher_kept"])
            cold += f" With all of them known, `{name}` is {times} × as fast as the teacher ({result[name]['how']})."
    of_objectives = table(
        ("taught by", "nDCG@10", "less listwise KL"),
        [
            [name, f"{of['ndcg_at_10']:.3f}", _with(of["less_first"], of["less_first_interval"])]
            for name, of in result.get("objectives", {}).items()
        ],
    )
    left_out = "".join(f" Not run: {name}, {why}." for name, why in result.get("not_run", {}).items())
    return f"{table(HEADINGS, rows)}\n\n{cold}{left_out}\n\n{of_objectives}"


def _with(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f}–{interval[1]:.3f})"
