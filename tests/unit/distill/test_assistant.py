"""Made texts and the assistant's head, without the encoder."""

from __future__ import annotations

import numpy as np

from stillhouse.distill.assistant import FILE, _kept, fit_soft_head, recombined


def test_made_texts_are_of_recorded_words_and_the_same_for_the_same_seed() -> None:
    texts = ["where is my parcel", "cancel it please", "", "hello"]
    made = recombined(texts, 50, seed=1)
    assert made == recombined(texts, 50, seed=1)
    assert made != recombined(texts, 50, seed=2)
    assert all(made)
    assert {word for text in made for word in text.split()} <= {word for text in texts for word in text.split()}
    assert len(set(made) - set(texts)) > 10
    assert recombined(["", " "], 5, seed=0) == []


def test_the_assistant_s_head_finds_a_teacher_that_is_linear_in_the_vectors() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(800, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    logits = vectors @ random.normal(size=(12, 5)) * 8
    soft = np.exp(logits - logits.max(axis=1, keepdims=True))
    soft = (soft / soft.sum(axis=1, keepdims=True)).astype(np.float32)
    answers = soft.argmax(axis=1)
    weights = fit_soft_head(vectors[:500], soft[:500], vectors[500:600], answers[500:600])
    assert weights.shape == (13, 5)
    said = vectors[600:] @ weights[:-1] + weights[-1]
    assert (said.argmax(axis=1) == answers[600:]).mean() > 0.97


def test_made_texts_of_another_run_or_spoilt_ones_are_not_taken(tmp_path) -> None:
    path = tmp_path / FILE
    assert _kept(path, "run") is None
    path.write_text('["run", [["a b", "x", {"x": 1.0}]]]')
    assert [(text.text, text.label) for text in _kept(path, "run")] == [("a b", "x")]
    assert _kept(path, "other") is None
    path.write_text('["run"')
    assert _kept(path, "run") is None
