"""Lists for `rerank`, and the rerankers trained on them: made once, kept under `.stillhouse/bench/rerank/`."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.distill.rerankers.export import export_reranker
from stillhouse.distill.rerankers.lists import RankedList, with_hard_negatives
from stillhouse.distill.rerankers.training import RUN_VERSION, train_reranker
from stillhouse.models.artefact import publish, verify
from stillhouse.models.rerank_student import OnnxReranker
from stillhouse.models.rerank_text import Lexicon
from stillhouse.tasks import RerankerStudent
from tests.benchmarks import peers
from tests.benchmarks.data import shared
from tests.benchmarks.peers import HOME

FOLDER = HOME / "rerank"


@dataclass(frozen=True, slots=True)
class Lists:
    """Lists to learn from, to choose on and to judge on, and lists without judgements, which only a teacher can use."""

    name: str
    train: list[RankedList]
    select: list[RankedList]
    test: list[RankedList]
    unjudged: list[RankedList]

    def lexicon(self) -> Lexicon:
        """Of every document that is known before the test."""
        lists = (*self.train, *self.select, *self.unjudged)
        return Lexicon.fit(sorted({text for one in lists for text in one.documents}))

    def cut(self, most: int) -> Lists:
        """At most `most` lists of each part."""
        return Lists(self.name, self.train[:most], self.select[:most], self.test[:most], self.unjudged[:most])


def load_lists(path: Path | None) -> Lists:
    """Of a folder with `train`, `dev`, `test` and maybe `unlabeled`, or of one file, split by query. None: SciFact.

    Ends the program with a sentence where there is nothing usable.
    """
    folder = path or shared("scifact_rerank")
    if folder.is_dir():
        found = {name: _read(one) for name in ("train", "dev", "test", "unlabeled") if (one := _file(folder, name))}
    else:
        lists = _read(folder)
        order = np.random.default_rng(0).permutation(len(lists))
        cuts = (0, len(lists) * 6 // 10, len(lists) * 7 // 10, len(lists))
        parts = [[lists[i] for i in order[a:b]] for a, b in pairwise(cuts)]
        found = dict(zip(("train", "dev", "test"), parts, strict=True))
    missing = [name for name in ("train", "dev", "test") if not found.get(name)]
    if missing:
        sys.exit(
            f"{folder}: there are no lists to take for {missing[0]}; give rows with query_id, query, doc and relevance."
        )
    return Lists(folder.name, found["train"], found["dev"], found["test"], found.get("unlabeled", []))


def _file(folder: Path, name: str) -> Path | None:
    return next(iter(sorted(folder.glob(f"{name}.jsonl*"))), None)


def _read(path: Path) -> list[RankedList]:
    rows: dict[str, list[dict[str, Any]]] = {}
    try:
        raw = path.read_bytes()
        for line in (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").splitlines():
            if line.strip():
                row = json.loads(line)
                rows.setdefault(str(row["query_id"]), []).append(row)
        return [
            RankedList(
                str(of[0]["query"]),
                tuple(str(row["doc"]) for row in of),
                relevance=tuple(float(row["relevance"]) for row in of) if "relevance" in of[0] else None,
            )
            for of in rows.values()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{path}: cannot be read ({error!r}); every row needs query_id, query, doc_id, doc and relevance.")


def hard(lists: Sequence[RankedList], lexicon: Lexicon, documents: int, *, at_random: bool = False) -> list[RankedList]:
    """Lists cut to what is relevant and what BM25 finds hardest to tell from it; without judgements BM25's first.

    `at_random`: beside what is relevant, or BM25's first, any others of the list.
    """
    by_words = [replace(one, teacher=tuple(lexicon.features(one.query, one.documents)[:, 0])) for one in lists]
    random = np.random.default_rng(0)
    cut = with_hard_negatives(by_words, documents, (lambda _, those: random.random(len(those))) if at_random else None)
    return [replace(one, teacher=None) for one in cut]


def taught(teacher: Path, lists: Sequence[RankedList], *, redacts: bool = False) -> list[RankedList]:
    """The lists with a model's scores; kept, because they take minutes."""
    digest = _digest((teacher.name, [asdict(one) for one in lists]))
    path = FOLDER / "scores" / f"{digest}.json"
    if path.exists():
        scores = json.loads(path.read_text(encoding="utf-8"))
    else:
        model = OnnxReranker(teacher, redacts=redacts)
        scores = [model.scores(one.query, one.documents).tolist() for one in lists]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores), encoding="utf-8")
    return [replace(one, teacher=tuple(said)) for one, said in zip(lists, scores, strict=True)]


def trained(
    name: str, candidate: RerankerStudent, train: list[RankedList], select: list[RankedList], lexicon: Lexicon
) -> Path:
    """The artefact of `candidate`, trained and exported; an interrupted run goes on where it was."""
    lists = [[asdict(one) for one in part] for part in (train, select)]
    digest = _digest((RUN_VERSION, candidate.model_dump(mode="json"), lists))
    target = FOLDER / "artefacts" / f"{name}-{digest}"
    if target.exists():
        return verify(target)
    checkpoints = FOLDER / "checkpoints" / target.name
    checkpoints.mkdir(parents=True, exist_ok=True)
    cpu = time.process_time()
    done = train_reranker(
        candidate,
        train,
        select,
        on_progress=lambda at: print(f"{name}: {at}", file=sys.stderr, flush=True),
        checkpoint_dir=checkpoints,
        seed=candidate.seed,
        lexicon=lexicon,
    )
    spent = time.process_time() - cpu
    staging = target.with_name(f".{target.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    exported = export_reranker(done, staging, name, select)
    facts = asdict(exported) | {"training_cpu_s": spent, "lists": len(train)}
    (staging / "trained.json").write_text(json.dumps(facts), encoding="utf-8")
    publish(staging, target)
    return target


def said_by_peer(peer: str, requirements: tuple[str, ...], job: dict[str, Any]) -> dict[str, Any]:
    """What a peer says for `job`, kept, so that a run that was stopped goes on where it was. Raises `PeerFailed`."""
    what = {key: value for key, value in job.items() if key != "encoder"}  # a path, of the same weights everywhere
    path = FOLDER / "peers" / f"{peer}-{_digest((requirements, what))}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(peers.run(peer, requirements, "rerankers.py", job, timeout_s=3600)), encoding="utf-8"
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


class Measured:
    """What was measured so far, chunk by chunk: a run that was stopped goes on where it was."""

    def __init__(self, systems: Sequence[str], lists: Sequence[RankedList]) -> None:
        """Of these systems, asked about these lists."""
        digest = _digest((systems, [asdict(one) for one in lists]))
        self._folder = FOLDER / "measured" / digest
        self._folder.mkdir(parents=True, exist_ok=True)

    def get(self, start: int) -> dict[str, Any] | None:
        """The chunk that begins at list `start`; None where it was not measured."""
        path = self._folder / f"{start:05}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def put(self, start: int, found: dict[str, Any]) -> None:
        """Keep a chunk."""
        draft = self._folder / f"{start:05}.tmp"
        draft.write_text(json.dumps(found), encoding="utf-8")
        os.replace(draft, draft.with_suffix(".json"))


def _digest(of: Any) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16]
