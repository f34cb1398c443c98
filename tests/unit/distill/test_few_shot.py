"""Which recorded answers stand in the prompt, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import WrittenText
from stillhouse.distill.causal_lm.few_shot import (
    choose_examples,
    distances_between,
    embeddings_of,
    k_centres,
    k_medoids,
    prompt_tokens,
)
from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from tests.tiny_models import tiny_causal_lm


def points(seed: int, n: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def spread(distances: np.ndarray, medoids: list[int]) -> float:
    return float(distances[:, medoids].min(axis=1).sum())


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 12))
def test_medoids_are_no_farther_from_everything_than_the_centres_they_began_as(seed: int, n: int, k: int) -> None:
    distances = distances_between(points(seed, n))
    medoids, sizes = k_medoids(distances, min(k, n))
    assert len(set(medoids)) == len(medoids) == min(k, n)
    assert sum(sizes) == n
    assert spread(distances, medoids) <= spread(distances, k_centres(distances, min(k, n))) + 1e-3


def test_two_crowds_and_a_hermit_have_a_medoid_each() -> None:
    crowd, other, hermit = np.eye(3)[[0] * 6], np.eye(3)[[1] * 4], np.eye(3)[[2]]
    rows = np.concatenate([crowd, other, hermit]).astype(np.float32)
    medoids, sizes = k_medoids(distances_between(rows), 3)
    assert sorted(zip(sizes, [rows[one].argmax() for one in medoids], strict=True)) == [(1, 2), (4, 1), (6, 0)]
    assert len(k_centres(distances_between(rows), 9)) == 3, "the same question twice"


def test_rare_tokens_weigh_more() -> None:
    table = np.eye(4, dtype=np.float32)
    embedded = embeddings_of([[0, 1], [0, 2], [0, 3], []], table)
    assert embedded[0][1] > embedded[0][0]
    assert np.linalg.norm(embedded, axis=1) == pytest.approx([1, 1, 1, 0])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_causal_lm(tmp_path_factory.mktemp("base") / "tiny")


def texts() -> list[WrittenText]:
    asked = [f"where is my order number {n}" for n in range(30)] + [f"the coffee shop is cheap {n}" for n in range(9)]
    return [WrittenText(ChatRequest.of("text", text), f"answer to {text}") for text in asked]


def test_examples_stand_for_all_questions_and_keep_to_their_budget(base) -> None:
    tokenizer = load_tokenizer(base)
    model = load_model(base, tokenizer)
    chosen = choose_examples(model, tokenizer, texts(), 2, 2000, 0)
    assert [text.request.question.split()[0] for text in chosen] == ["the", "where"], "the larger cluster comes last"
    assert chosen == choose_examples(model, tokenizer, texts(), 2, 2000, 0)
    whole = prompt_tokens(tokenizer, chosen)
    one = choose_examples(model, tokenizer, texts(), 2, whole // 2, 0)
    assert len(one) == 1
    assert prompt_tokens(tokenizer, one) < whole
    with pytest.raises(ModelError, match="example_tokens"):
        choose_examples(model, tokenizer, texts(), 2, 3, 0)


def test_only_plain_questions_are_shown(base) -> None:
    tokenizer = load_tokenizer(base)
    chat = '{"messages":[{"role":"system","content":"be short"},{"role":"user","content":"where is it"}]}'
    mixed = [WrittenText(ChatRequest.of("chat", chat), "there"), *texts()[:5]]
    chosen = choose_examples(load_model(base, tokenizer), tokenizer, mixed, 6, 5000, 0)
    assert len(chosen) == 5
    assert "there" not in {text.answer for text in chosen}


def test_examples_stand_behind_what_the_system_says_and_before_the_question(tmp_path) -> None:
    CausalLmSpec("s", "base", examples=(("a?", "a!"), ("b?", "b!"))).write(tmp_path)
    examples = CausalLmSpec.read(tmp_path).examples
    assert examples == (("a?", "a!"), ("b?", "b!"))
    plain = ChatRequest.of("text", "c?").with_examples(examples)
    assert [(one.role, one.text) for one in plain.messages] == [
        ("user", "a?"),
        ("assistant", "a!"),
        ("user", "b?"),
        ("assistant", "b!"),
        ("user", "c?"),
    ]
    chat = '{"messages":[{"role":"system","content":"be short"},{"role":"user","content":"c?"}],"seed":3}'
    asked = ChatRequest.of("chat", chat).with_examples(examples[:1])
    assert [one.text for one in asked.messages] == ["be short", "a?", "a!", "c?"]
    assert asked.seed == 3
    assert ChatRequest.of("text", "c?").with_examples(()) == ChatRequest.of("text", "c?")
