"""Pruning: what does nothing is found and left out, and what is left computes as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from stillhouse.distill.causal_lm.examples import Encoded, encode
from stillhouse.distill.causal_lm.packing import batch_of
from stillhouse.distill.causal_lm.sft import tune
from stillhouse.distill.pruning.depth import block_influence, keep_layers, keep_most_influential
from stillhouse.distill.pruning.llama import best, layers_of
from stillhouse.distill.pruning.prune import prune
from stillhouse.distill.pruning.width import activities, keep_heads, keep_neurons, narrow
from stillhouse.models.port import ModelError
from stillhouse.tasks import LanguageModel
from tests.tiny_models import tiny_causal_lm, tiny_tokenizer
from tests.unit.distill.test_sft import texts


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    known = [(text.request.question, text.answer) for text in texts(8)]
    return tiny_causal_lm(tmp_path_factory.mktemp("base") / "tiny", taught=known, steps=25)


@pytest.fixture
def model(base):
    return AutoModelForCausalLM.from_pretrained(base).eval()


@pytest.fixture(scope="module")
def examples() -> list[Encoded]:
    return encode(tiny_tokenizer(), texts(12), 200)[0]


@pytest.fixture
def batches(examples):
    return [batch_of([examples[:2], examples[2:4]], 0)]


def said(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


def test_a_layer_that_passes_on_what_it_gets_has_no_influence_and_goes_first(model, batches) -> None:
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    influence = block_influence(model, batches)
    assert influence[0] == pytest.approx(0.0, abs=1e-5)
    assert influence[1] > 0.05
    before = said(model)
    assert keep_most_influential(model, batches, 1) == [1]
    assert model.config.num_hidden_layers == len(model.model.layers) == 1
    assert torch.equal(said(model), before)


def test_influence_is_one_less_the_cosine(model, batches) -> None:
    """A layer that turns every state around, x to -x, has the influence 2."""
    layer = model.model.layers[1]
    layer.forward = lambda hidden_states, *args, **kwargs: -hidden_states
    assert block_influence(model, batches)[1] == pytest.approx(2.0, abs=1e-5)


def test_a_model_that_lost_layers_still_writes_with_its_cache(model, tmp_path) -> None:
    keep_layers(model, [1])
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    asked = torch.arange(3, 20)[None]
    cached, whole = (again.generate(asked, max_new_tokens=8, do_sample=False, use_cache=one) for one in (True, False))
    assert torch.equal(cached, whole)
    assert torch.equal(said(again), said(model))


def test_neurons_and_heads_that_are_never_active_go_first(model, batches, tmp_path) -> None:
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[::2] = 0.0  # every second neuron says nothing
            layer.self_attn.v_proj.weight[:32] = 0.0  # nor does the first key-value head
    neurons, heads = activities(model, batches)
    for of_neurons, of_heads in zip(neurons, heads, strict=True):
        assert (of_neurons[::2] == 0).all()
        assert (of_neurons[1::2] > 0).all()
        assert of_heads[0] == 0 < of_heads[1]
    before = said(model)
    narrow(model, batches, 0.5, 0.5)
    assert torch.allclose(said(model), before, atol=1e-4)
    config = model.config
    assert (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) == (128, 2, 1)
    assert config.head_dim == 32
    model.save_pretrained(tmp_path)
    assert torch.allclose(said(AutoModelForCausalLM.from_pretrained(tmp_path).eval()), before, atol=1e-4)


def test_activities_are_means_over_tokens(model, examples) -> None:
    batch = batch_of([[examples[0]]], 0)
    seen: list[torch.Tensor] = []
    hook = model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    neurons, _ = activities(model, [batch])
    hook.remove()
    assert torch.allclose(neurons[0], seen[0][1:].abs().mean(dim=0), atol=1e-5)  # a first token sees itself alone


def test_what_cannot_be_cut_is_refused_with_the_reason(model, batches) -> None:
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    with pytest.raises(ModelError, match="GPT2LMHeadModel cannot be pruned"):
        layers_of(other)
    with pytest.raises(ModelError, match="keep_layers = 3: the base has 2 layers"):
        keep_most_influential(model, batches, 3)
    with pytest.raises(ModelError, match=r"layers \[2\] cannot be kept"):
        keep_layers(model, [2])
    with pytest.raises(ModelError, match="shares between 0 and 1"):
        narrow(model, batches, 0.0, 1.0)
    with pytest.raises(ValueError, match="zip"):
        keep_neurons(model, [[0]])
    with pytest.raises(ValueError, match="zip"):
        keep_heads(model, [[0]])
    assert best([1.0, 3.0, 3.0, 2.0], 2) == [1, 2]


def test_a_cut_model_is_healed_by_its_whole_self(base, examples, tmp_path) -> None:
    candidate = LanguageModel(
        architecture="causal_lm",
        base=str(base),
        method="full",
        learning_rate=2e-3,
        batch_size=512,
        step_tokens=512,
        epochs=2.0,
        teacher_model=str(base),
        objective="forward_kl",
        keep_layers=1,
        keep_neurons=0.5,
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    cut = prune(model, candidate, examples, 2)
    assert cut.weights < 0.9 * cut.weights_before
    seen = []
    data = texts(40)
    tuned = tune(candidate, base, data[:32], data[32:], on_progress=seen.append, checkpoint_dir=tmp_path, teacher=base)
    assert tuned.kept_layers == cut.layers
    assert seen[-1].train_loss < 0.7 * seen[0].train_loss
    assert tuned.model.config.intermediate_size == 128
