"""What methods are compared on: a teacher, the texts that it answered, and the student that learns from its answers.

The teacher is the sentence encoder (6 layers) with a head fitted on 20 labelled texts a label, one temperature
calibrated. The student keeps 2 layers, of which the upper learns (or both), and its head. What never changes is
computed once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.cut_encoder import MAX_TOKENS, CutEncoder, encoder_source
from stillhouse.distill.fitting import fit, torch_set_up
from stillhouse.distill.teaching import EXAMPLES, TEACHER, EncoderSide, Teaching, of_encoder
from stillhouse.distill.training import HEAD_RATES, Ids, batches, inputs_of, lower_states, predict
from stillhouse.models.features import TOKENIZER_FILE, Featuriser, StudentSpec, prepare
from stillhouse.models.teacher import fit_head
from stillhouse.tasks.distillation import AnyTerm, HiddenStates, SelfAttention
from tests.benchmarks.data import Data

LAYERS, EPOCHS, BATCH, RATE = 2, 4, 32, 1e-3
SEED_PER_LABEL, POOL, LEARNT, TEST = 20, 3000, 1000, 1500


@dataclass
class Classroom:
    """A fitted teacher and its answers: `pool` texts teach, `test` texts judge.

    `logits` float32 [pool, labels] are calibrated, `said` int64 [test] the teacher's labels, `truth` int64 [test] the
    data's.
    """

    name: str
    digest: str
    labels: tuple[str, ...]
    pool: list[str]
    test: list[str]
    logits: Tensor
    said: NDArray[np.int64]
    truth: NDArray[np.int64]
    learnt: int
    ids: list[Ids]
    test_ids: list[Ids]

    @cached_property
    def lower(self) -> tuple[list[Ids], list[Ids]]:
        """What a student reads in the place of ids, which its lower layer made of them: pool and test."""
        module = CutEncoder(LAYERS, 1)
        return lower_states(module, self.ids), lower_states(module, self.test_ids)

    @cached_property
    def embedded(self) -> tuple[list[Ids], list[Ids]]:
        """As `lower`, for a student whose layers all learn: the embeddings of tokens."""
        module = CutEncoder(LAYERS, 1, learn=LAYERS)
        return lower_states(module, self.ids), lower_states(module, self.test_ids)

    def read_by(self, module: CutEncoder) -> tuple[list[Ids], list[Ids]]:
        """What this student reads in the place of ids."""
        return self.lower if module.below else self.embedded

    @cached_property
    def encoder(self) -> EncoderSide:
        """What the whole encoder says of the pool: vectors, its layers' states, its last layer's attention."""
        every = ("attention", "queries", "keys", "values")
        states = [HiddenStates(kind="hidden_mse", teacher=path) for path in TEACHER]
        return EncoderSide([*states, SelfAttention(parts=every, teacher=TEACHER[-1])], self.pool)


@dataclass(frozen=True)
class Lesson:
    """One run: its seed, and the places in the pool that it may learn from, int64 [learnt]."""

    room: Classroom
    seed: int
    places: NDArray[np.int64]


def lesson(room: Classroom, seed: int) -> Lesson:
    """The texts of this seed, drawn from the pool."""
    return Lesson(room, seed, np.random.default_rng(seed).permutation(len(room.pool))[: room.learnt])


def learn(of: Lesson, terms: Sequence[AnyTerm], layers: int = 1) -> CutEncoder:
    """A student whose highest `layers` learnt from the lesson's texts by a recipe; the same for the same seed."""
    room, places = of.room, torch.from_numpy(of.places)
    with torch_set_up(1):
        torch.manual_seed(of.seed)
        module = CutEncoder(LAYERS, len(room.labels), learn=layers)
        seen = [room.read_by(module)[0][i] for i in of.places]
        taught = Teaching(
            terms,
            module,
            room.labels,
            [room.pool[i] for i in of.places],
            room.logits[places].softmax(dim=-1),
            room.logits[places].argmax(dim=-1),
            None,
            inputs_of(seen[:EXAMPLES], tokens=True),
            room.encoder.among(of.places.tolist(), ()) if any(of_encoder(term) for term in terms) else None,
        )
        learning = nn.ModuleDict({"student": module, "recipe": taught.recipe})
        fit(
            learning,
            lambda epoch, seed: list(batches(seen, BATCH, seed)),
            lambda batch, done: taught.loss(batch, inputs_of([seen[i] for i in batch], tokens=True)),
            epochs=EPOCHS,
            rate=RATE,
            rate_of=lambda name: HEAD_RATES["cut_encoder"] if name.startswith("student.head") else 1.0,
            seed=of.seed,
        )
    return module


def judged_logits(of: Lesson, module: CutEncoder) -> NDArray[np.float32]:
    """What a student says of the test texts, float32 [test, labels]."""
    return predict(module, of.room.read_by(module)[1], tokens=True)


def open_room(rows: Data, home: Path, *, learnt: int = LEARNT, test: int = TEST) -> Classroom:
    """Fit the teacher and let it answer; both are kept below `home`, by what they were made of."""
    order = np.random.default_rng(0).permutation(len(rows.train))
    train, counts = [rows.train[i] for i in order], dict.fromkeys(rows.labels, 0)
    seeds, pool = [], []
    for row in train:
        counts[row.label] += 1
        (seeds if counts[row.label] <= SEED_PER_LABEL else pool).append(row)
    pool = pool[:POOL]
    judged = [rows.test[i] for i in np.random.default_rng(0).permutation(len(rows.test))[:test]]
    labels = tuple(label for label in rows.labels if counts[label])
    index = {label: i for i, label in enumerate(labels)}
    judged = [row for row in judged if row.label in index]
    facts = json.dumps([[(row.text, row.label) for row in part] for part in (seeds, pool, judged)])
    digest = hashlib.sha256(facts.encode()).hexdigest()[:12]
    ids = [_ids([row.text for row in part]) for part in (pool, judged)]
    kept = home / digest / "teacher.npz"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        vectors = [_vectors(part) for part in (_ids([row.text for row in seeds]), *ids)]
        targets = np.array([index[row.label] for row in seeds])
        held_out = np.arange(len(seeds)) % 7 == 0
        head = fit_head(vectors[0], targets, len(labels), held_out)
        answers = [(part @ head.weights + head.bias) / head.temperature for part in vectors[1:]]
        draft = kept.with_suffix(".tmp.npz")
        np.savez(draft, pool=answers[0], test=answers[1])
        draft.replace(kept)
    with np.load(kept, allow_pickle=False) as found:
        logits, said = torch.from_numpy(found["pool"].astype(np.float32)), found["test"].argmax(axis=1)
    return Classroom(
        name=rows.name,
        digest=digest,
        labels=labels,
        pool=[row.text for row in pool],
        test=[row.text for row in judged],
        logits=logits,
        said=said,
        truth=np.array([index[row.label] for row in judged]),
        learnt=min(learnt, len(pool)),
        ids=ids[0],
        test_ids=ids[1],
    )


def _ids(texts: Sequence[str]) -> list[Ids]:
    spec = StudentSpec(
        student_id="", architecture="cut_encoder", labels=("",), inputs="tokens", max_length=MAX_TOKENS, buckets=0
    )
    featuriser = Featuriser(spec, encoder_source() / TOKENIZER_FILE)
    return [featuriser.ids(prepare(text)) for text in texts]


def _vectors(ids: Sequence[Ids]) -> NDArray[np.float32]:
    """Sentence vectors of the whole encoder, of length 1, float32 [n, width]."""
    encoder = CutEncoder(6, 1).eval()
    found = np.zeros((len(ids), encoder.head.in_features), dtype=np.float32)
    order = np.argsort([len(one) for one in ids], kind="stable")
    with torch.no_grad():
        for start in range(0, len(ids), 64):
            places = order[start : start + 64]
            found[places] = encoder(*inputs_of([ids[i] for i in places], tokens=True))[1].numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)
