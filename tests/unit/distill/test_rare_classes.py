"""A teacher whose soft labels smear rare classes into the common one: more of the hard label brings their recall back.

2 % of the texts are of each of two rare classes, and the teacher, right about its label, gives it 51 % and the common
class most of the rest. Over two draws (some 120 rare texts) recall of the rare classes rises from 19 % to 34 %, and
agreement over all texts from 93.8 % to 94.6 %.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from stillhouse.distill.data import LabelledText
from stillhouse.distill.training import predict, train
from stillhouse.models.features import Featuriser, prepare
from stillhouse.tasks import StudentCandidate

LABELS = ("order", "refund", "fraud", "press")
RARE = ("fraud", "press")
CANDIDATE = StudentCandidate(
    architecture="hashed_ngrams", buckets=1 << 12, dim=16, epochs=8, batch_size=32, alpha=0.2, temperature=2.0
)
SHARED = ["please", "help", "account", "about", "my", "your", "the", "it", "today", "again", "still", "team"]
OWN = {
    "order": ["parcel", "late"],
    "refund": ["money", "back"],
    "fraud": ["stolen", "card"],
    "press": ["article", "quote"],
}


def texts(n: int, seed: int) -> list[LabelledText]:
    draw = random.Random(seed)
    found = []
    for _ in range(n):
        label = draw.choices(LABELS, weights=[70, 26, 2, 2])[0]
        words = [draw.choice(SHARED) for _ in range(7)]
        # A word of its own is mostly there, and sometimes the common class's too.
        words[0] = draw.choice(OWN[label]) if draw.random() < 0.9 else draw.choice(SHARED)
        words[1] = draw.choice(OWN["order"]) if draw.random() < 0.4 else words[1]
        draw.shuffle(words)
        soft = {label: 0.51, "order": 0.47} if label in RARE else {label: 0.97}
        found.append(LabelledText(" ".join(words), label, soft))
    return found


def recall(tmp_path, candidate: StudentCandidate, seed: int) -> tuple[float, float]:
    """Of the rare classes, and agreement over all texts."""
    folder = tmp_path / f"{seed}-{len(candidate.class_alpha)}"
    folder.mkdir()
    student = train(
        candidate,
        LABELS,
        texts(1000, seed),
        texts(300, seed + 100),
        on_progress=lambda progress: None,
        checkpoint_dir=folder,
        seed=seed,
    )
    cases = texts(1500, seed + 200)
    featuriser = Featuriser(student.spec, None)
    found = predict(student.module, [featuriser.ids(prepare(case.text)) for case in cases], tokens=False).argmax(axis=1)
    right = np.array([LABELS[i] == case.label for i, case in zip(found, cases, strict=True)])
    rare = np.array([case.label in RARE for case in cases])
    return float(right[rare].mean()), float(right.mean())


def test_rare_recall_rises_and_agreement_is_kept(tmp_path) -> None:
    harder = CANDIDATE.model_copy(update={"class_alpha": dict.fromkeys(RARE, 0.95)})
    soft = [recall(tmp_path, CANDIDATE, seed) for seed in (1, 2)]
    hard = [recall(tmp_path, harder, seed) for seed in (1, 2)]
    before, after = np.mean(soft, axis=0), np.mean(hard, axis=0)
    assert after[0] >= before[0] + 0.1
    assert after[1] >= before[1] - 0.005


def test_a_class_alpha_of_alpha_is_no_change_and_weights_count(tmp_path) -> None:
    same = CANDIDATE.model_copy(update={"class_alpha": {"fraud": CANDIDATE.alpha}})
    assert recall(tmp_path, same, 1) == pytest.approx(recall(tmp_path, CANDIDATE, 1), abs=0.02)
