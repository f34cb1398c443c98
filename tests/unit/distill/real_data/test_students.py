"""Every kind of student learns what a real teacher says of real sentences, by the trainer that tasks use.

A student that always gives the commonest label agrees on about a fifth of the sentences.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.distill import training
from stillhouse.distill.augmentation.paraphrase import paraphrased
from stillhouse.distill.augmentation.token_dropout import drop_words
from stillhouse.distill.augmentation.unlabelled import labelled_by_teacher
from stillhouse.distill.cut_encoder import load_transformer
from stillhouse.distill.data import LabelledText
from stillhouse.distill.export import _logits
from stillhouse.distill.joint import train_joint
from stillhouse.distill.static_embeddings import components, weighted
from stillhouse.distill.training import TrainedStudent, train
from stillhouse.models.features import Featuriser
from stillhouse.tasks import StudentCandidate
from tests.unit.distill.real_data.digits import surely_more
from tests.unit.distill.real_data.texts import HELD, LABELS, MORE, SELECT, TAUGHT, answered, of, sentences, short

SEEDS = (0, 1, 2)
NGRAMS = {"architecture": "hashed_ngrams", "epochs": 8, "buckets": 1 << 15, "dim": 64}


@pytest.fixture(autouse=True)
def _vectors_without_attention(monkeypatch) -> None:
    """Static vectors from the encoder's own table of tokens: those that it makes of each token take 40 seconds."""

    def vectors(dim: int) -> torch.Tensor:
        table = load_transformer().embeddings.word_embeddings.weight.detach()
        return weighted(components(table, dim))

    monkeypatch.setattr(training, "token_vectors", vectors)


def taught(
    folder: Path,
    fields: dict[str, Any],
    texts: Sequence[LabelledText],
    seeds: Sequence[int] = SEEDS,
    select: Sequence[LabelledText] | None = None,
    held: Sequence[LabelledText] | None = None,
    learn: Callable[..., TrainedStudent] = train,
) -> list[float]:
    """How often students agree with the teacher on sentences that they never saw, by seed."""

    def one(seed: int) -> float:
        place = folder / f"{len(list(folder.iterdir()))}"
        place.mkdir()
        student = learn(
            StudentCandidate.model_validate(fields),
            LABELS,
            texts,
            of(SELECT) if select is None else select,
            on_progress=lambda progress: None,
            checkpoint_dir=place,
            seed=seed,
        )
        return agreement(student, of(HELD) if held is None else held)

    return [one(seed) for seed in seeds]


def agreement(student: TrainedStudent, held: Sequence[LabelledText]) -> float:
    featuriser = Featuriser(student.spec, student.tokenizer)
    scores = np.stack([_logits(student, featuriser, one.text) for one in held])
    said = [LABELS[place] for place in scores.argmax(axis=1)]
    return float(np.mean([ours == one.label for ours, one in zip(said, held, strict=True)]))


def commonest(texts: Sequence[LabelledText]) -> float:
    """What a student that knows nothing could agree at best."""
    return max(np.mean([one.label == label for one in texts]) for label in LABELS)


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        (NGRAMS, 0.3),
        ({"architecture": "static_embeddings", "epochs": 25, "dim": 64, "hidden": 0}, 0.1),
        ({"architecture": "text_cnn", "epochs": 20, "dim": 64, "hidden": 0, "filters": 32}, 0.1),
    ],
    ids=["hashed n-grams", "static", "cnn"],
)
def test_students_agree_far_more_than_by_the_commonest_label(tmp_path, fields, least) -> None:
    found = taught(tmp_path, fields, of(TAUGHT))
    assert surely_more(found, [commonest(of(HELD))] * len(SEEDS)) > least


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_a_cut_and_a_narrowed_encoder_learn(tmp_path, width) -> None:
    few, held = short(TAUGHT, 80), short(HELD, 100)
    fields = {"architecture": "cut_encoder", "layers": 2, "width": width, "epochs": 4, "batch_size": 16}
    [found] = taught(tmp_path, fields, few, seeds=(0,), select=few[:20], held=held)
    assert found > commonest(held) + 0.1  # of 100: more than two standard errors of 0.045


def test_a_joint_student_learns_and_loses_nothing_to_its_n_grams(tmp_path) -> None:
    few, some = short(TAUGHT, 80), {"select": short(SELECT, 30), "held": short(HELD, 100)}
    fields = NGRAMS | {"architecture": "joint", "layers": 2, "epochs": 4, "batch_size": 16}
    [found] = taught(tmp_path, fields, few, seeds=(0,), learn=train_joint, **some)
    [alone] = taught(tmp_path, NGRAMS | {"epochs": 12}, few, seeds=(0,), **some)
    assert found > commonest(some["held"]) + 0.1  # of 100: more than two standard errors of 0.045
    assert found >= alone - 0.05


def test_made_texts_that_an_assistant_answers_teach(tmp_path) -> None:
    few = short(TAUGHT, 80)
    fields = {"architecture": "static_embeddings", "epochs": 15, "dim": 64, "hidden": 0}
    with_them, without = (taught(tmp_path, fields | {"synthetic": made}, few, range(5)) for made in (2, 0))
    assert surely_more(with_them, without) > 0.0


def test_thinned_texts_teach_as_well(tmp_path) -> None:
    """Not shown to help: no more than 5 points are lost."""
    thinned, whole = (taught(tmp_path, NGRAMS | {"token_dropout": share}, of(TAUGHT)) for share in (0.2, 0.0))
    assert surely_more(thinned, [commonest(of(HELD))] * len(SEEDS)) > 0.3
    assert np.mean(thinned) > np.mean(whole) - 0.05


def test_texts_that_nobody_labelled_teach_once_the_teacher_did(tmp_path) -> None:
    judge = [one.text for one in (*of(HELD), *of(SELECT))]
    texts = [text for text, _ in sentences()[MORE]]
    more = labelled_by_teacher(texts, answered, [*judge, *(one.text for one in of(TAUGHT))])
    assert more.asked > 300
    few = of(TAUGHT)[:100]
    with_them, without = (taught(tmp_path, NGRAMS, some) for some in ([*few, *more.texts], few))
    assert surely_more(with_them, without) > 0.03


def test_sentences_said_otherwise_teach(tmp_path) -> None:
    """No writer is at hand here: what says a sentence otherwise leaves words out, boldly first. The teacher's check and
    the back-off are real."""
    random = np.random.default_rng(0)

    async def ask(prompt: str) -> str:
        return drop_words(prompt.split("\n\n", 1)[1], 0.5 if prompt.startswith("Say") else 0.2, random)

    async def label(text: str) -> LabelledText:
        return answered([text])[0]

    few = of(TAUGHT)[:100]
    made = asyncio.run(paraphrased(few, ask, label))
    assert len(made.texts) > 50
    assert made.asked > 100
    assert all(new.label in {old.label for old in few} for new in made.texts)
    with_them, without = (taught(tmp_path, NGRAMS, some) for some in ([*few, *made.texts], few))
    assert surely_more(with_them, without) > 0.0
