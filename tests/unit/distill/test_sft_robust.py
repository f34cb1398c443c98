"""Fine-tuning where memory is short, numbers run away or precision is low."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stillhouse.distill.causal_lm import sft
from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import encode
from stillhouse.distill.causal_lm.memory import halving, ran_out
from stillhouse.distill.causal_lm.saving import read_texts, write_texts
from stillhouse.distill.causal_lm.sft import _Learner, hard
from stillhouse.distill.causal_lm.workers import Workers
from stillhouse.models.port import ModelError
from tests.tiny_models import tiny_causal_lm
from tests.unit.distill.test_sft import run, texts


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_causal_lm(tmp_path_factory.mktemp("base") / "tiny")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_work_is_halved_until_memory_suffices(error) -> None:
    tried: list[int] = []

    def work(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise error
        return "done"

    assert ran_out(error)
    assert halving(work, 16, "row") == ("done", 2)
    assert tried == [16, 8, 4, 2]


def test_without_a_smaller_piece_the_error_says_what_to_do_and_others_are_not_touched() -> None:
    def never(size: int) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(ModelError, match=r"out of memory with a single row at once.*smaller max_tokens"):
        halving(never, 4, "row")

    def broken(size: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        halving(broken, 4, "row")


def test_a_step_that_does_not_fit_is_the_same_step_in_smaller_batches(base, tmp_path, monkeypatch) -> None:
    data = texts(60)
    whole, _ = run(base, tmp_path / "whole", data)
    real, tried = sft.states_of, []

    def small(model, batch):
        tried.append(batch.ids.shape[0])
        if batch.ids.shape[0] > 1 and model.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, batch)

    monkeypatch.setattr(sft, "states_of", small)
    halved, _ = run(base, tmp_path / "halved", data)
    assert (whole.rows_at_once, halved.rows_at_once) == (4, 1)
    assert max(tried) > 1
    for a, b in zip(whole.model.parameters(), halved.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)

    def none(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sft, "states_of", none)
    with pytest.raises(ModelError, match="out of memory with a single row"):
        run(base, tmp_path / "none", data)


def test_numbers_that_run_away_are_said(base, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"diverged at step \d+; set a learning_rate below 1e\+30"):
        run(base, tmp_path / "run", texts(60), method="full", learning_rate=1e30)


def test_low_precision_is_of_products_only(base) -> None:
    tokenizer = load_tokenizer(base)
    examples, _ = encode(tokenizer, texts(6), 200)
    steps = {}
    for precision in ("float32", "bfloat16"):
        model = load_model(base, tokenizer, float32=True)
        learner = _Learner(model, 0, torch.device("cpu"), Workers(), precision, 4, list(model.parameters()))
        loss = learner.step([[0, 1], [2, 3, 4, 5]], examples, hard)
        assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
        steps[precision] = (loss, model.model.layers[0].mlp.up_proj.weight.grad.clone())
    assert steps["bfloat16"][0] == pytest.approx(steps["float32"][0], rel=0.01)
    assert steps["bfloat16"][0] != steps["float32"][0]
    similar = torch.cosine_similarity(*(grad.flatten() for _, grad in steps.values()), dim=0)
    assert similar > 0.99


def test_texts_travel_as_they_are(tmp_path) -> None:
    from stillhouse.distill.causal_lm.examples import WrittenText
    from stillhouse.models.chat.request import ChatRequest

    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "ä\n"}]
    chat = ChatRequest.of("chat", json.dumps({"messages": said}))
    given = [*texts(2), WrittenText(chat, "line\nbreak", 0.5)]
    write_texts(tmp_path / "t.jsonl", given)
    assert read_texts(tmp_path / "t.jsonl") == given
    (tmp_path / "t.jsonl").write_text('{"input": "x"}\n')
    with pytest.raises(ModelError, match=r"t.jsonl:1: a row needs"):
        read_texts(tmp_path / "t.jsonl")
