"""Smaller encoders learn a larger one's vectors, and serve from files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.distill import static_embeddings
from stillhouse.distill.assistant import sentence_vectors
from stillhouse.distill.cut_encoder import load_transformer
from stillhouse.distill.embeddings.objectives import similarity_loss, vector_loss
from stillhouse.distill.embeddings.students import CutSentences, StaticEncoder
from stillhouse.distill.embeddings.training import distil, encode, export_encoder, ids
from stillhouse.models.encoder import WIDTH, SentenceEncoder
from stillhouse.models.port import ModelError
from tests.unit.distill.toy import texts

LEARNT = [text.text for text in texts(200)]
HELD = [text.text for text in texts(60, seed=1)]


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    return sentence_vectors(LEARNT), sentence_vectors(HELD)


@pytest.mark.parametrize("kind", ["static", "cut"])
def test_a_smaller_encoder_comes_nearer_and_its_files_say_the_same(kind, vectors, tmp_path, monkeypatch) -> None:
    table = load_transformer().embeddings.word_embeddings.weight.detach()
    monkeypatch.setattr(static_embeddings, "encoded_vocabulary", lambda: table)
    student = StaticEncoder(ids(LEARNT), 64, WIDTH) if kind == "static" else CutSentences(2)
    before = float((encode(student, HELD) * vectors[1]).sum(axis=1).mean())
    said = []
    distil(student, LEARNT, vectors[0], HELD, vectors[1], seed=0, epochs=12, on_progress=said.append)
    after = encode(student, HELD)
    cosine = float((after * vectors[1]).sum(axis=1).mean())
    assert cosine > max(0.75, before + 0.05)
    assert 1 <= len(said) <= 12
    assert export_encoder(student, tmp_path) > 0.99
    served, counts = SentenceEncoder(tmp_path).encode(HELD)
    assert (served * after).sum(axis=1).min() > 0.99
    assert counts.min() > 2


def test_each_loss_can_teach_alone(vectors) -> None:
    wanted = torch.from_numpy(vectors[1])

    def losses(student) -> tuple[float, float]:
        said = torch.from_numpy(encode(student, HELD))
        return float(vector_loss(said, wanted)), float(similarity_loss(said, wanted))

    before = losses(CutSentences(2))
    by_vector, by_similarity = (
        losses(distil(CutSentences(2), LEARNT, vectors[0], HELD, vectors[1], seed=0, epochs=6, **weights))
        for weights in ({"similarity": 0.0}, {"vector": 0.0})
    )
    assert by_vector[0] < 0.8 * before[0]
    assert by_similarity[1] < 0.8 * before[1]
    assert by_vector[0] < by_similarity[0]
    for weights in ({"vector": 0.0, "similarity": 0.0}, {"vector": -1.0}):
        with pytest.raises(ModelError, match="give none below 0, and one above it"):
            distil(CutSentences(2), LEARNT, vectors[0], HELD, vectors[1], seed=0, **weights)


def test_texts_without_vectors_are_refused(vectors) -> None:
    with pytest.raises(ModelError, match="60 texts to choose on and 200 vectors"):
        distil(CutSentences(2), LEARNT, vectors[0], HELD, vectors[0], seed=0)


def test_a_student_of_another_width_is_refused_with_the_shapes(vectors, monkeypatch) -> None:
    monkeypatch.setattr(static_embeddings, "encoded_vocabulary", lambda: torch.randn(30522, 16))
    with pytest.raises(ModelError, match=r"vectors of 100, the teacher's are \[200, 384\]"):
        distil(StaticEncoder(ids(LEARNT), 8, 100), LEARNT, vectors[0], HELD, vectors[1], seed=0)
