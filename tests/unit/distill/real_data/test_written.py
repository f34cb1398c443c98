"""A language model that lost layers or neurons is healed on real sentences, whose parts of the package it names.

A model of 0.4 million weights learns to write such names for sentences that it never saw, and not yet which of them is
right: how far healing goes with a real one, the benchmark `methods_writing` measures.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from stillhouse.distill.causal_lm.examples import WrittenText, encode
from stillhouse.distill.causal_lm.sft import tune
from stillhouse.distill.pruning.prune import prune
from stillhouse.models.chat.request import ChatRequest
from stillhouse.tasks import LanguageModel
from tests.tiny_models import tiny_causal_lm, tiny_tokenizer
from tests.unit.distill.real_data.texts import SELECT, TAUGHT, short

TAUGHT_BY, HELD = 120, 30


@pytest.fixture(scope="module")
def sentences() -> list[WrittenText]:
    some = [*short(TAUGHT, 250), *short(SELECT, 100)][: TAUGHT_BY + HELD]
    return [WrittenText(ChatRequest.of("text", one.text), one.label) for one in some]


@pytest.fixture(scope="module")
def base(tmp_path_factory, sentences) -> Path:
    known = [(text.request.question, text.answer) for text in sentences[:24]]
    return tiny_causal_lm(tmp_path_factory.mktemp("base") / "tiny", taught=known, steps=60)


@pytest.mark.parametrize("cut", [{"keep_layers": 1}, {"keep_neurons": 0.5, "keep_heads": 0.5}], ids=["depth", "width"])
def test_what_was_cut_learns_to_write_again_also_for_sentences_it_never_saw(base, sentences, tmp_path, cut) -> None:
    learnt, held = sentences[:TAUGHT_BY], sentences[TAUGHT_BY:]
    fields = {"architecture": "causal_lm", "base": str(base), "method": "full", "learning_rate": 2e-3}
    fields |= {"batch_size": 1024, "step_tokens": 1024, "epochs": 4.0}
    candidate = LanguageModel.model_validate(fields | cut)
    model = AutoModelForCausalLM.from_pretrained(base)
    left = prune(model, candidate, encode(tiny_tokenizer(), learnt[:12], 200)[0], 2)
    assert left.weights < 0.9 * left.weights_before
    seen = []
    tuned = tune(candidate, base, learnt, held, on_progress=seen.append, checkpoint_dir=tmp_path)
    assert min(one.select_loss for one in seen) < 0.7 * seen[0].select_loss
    assert tuned.kept_layers == left.layers
