"""The grid of quantised checkpoints, and learning through what rounds."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stillhouse.distill.causal_lm.base import load_model
from stillhouse.distill.causal_lm.examples import encode
from stillhouse.distill.causal_lm.forward import logits_of, states_of
from stillhouse.distill.causal_lm.packing import batch_of
from stillhouse.distill.causal_lm.quantisation_aware import learn_rounded
from stillhouse.distill.compression.quantise import quantise
from stillhouse.distill.compression.rounding import (
    W8A8Linear,
    on_grid,
    round_layers,
    straight_through,
    unround_layers,
)
from stillhouse.distill.objectives.forward_kl import forward_kl
from stillhouse.distill.objectives.tokens import log_probabilities
from stillhouse.environments.environment import exists
from stillhouse.models.port import ModelError
from stillhouse.tasks import LanguageModel
from tests.tiny_models import tiny_causal_lm, tiny_tokenizer
from tests.unit.distill.test_sft import texts

needs_quantising = pytest.mark.skipif(
    not exists("quantising"), reason="no environment quantising; `stillhouse env make quantising` makes it"
)


def test_the_grid_by_hand() -> None:
    values = torch.tensor([[127.5, -127.5, 1.4, 1.6, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert on_grid(values, 8)[0].tolist() == [127.0, -128.0, 1.0, 2.0, 0.0]  # s = 1; the top is cut by half a step
    assert on_grid(values, 8)[1].tolist() == [0.0] * 5
    four = on_grid(torch.tensor([[7.5, -7.5, 3.4, 0.4]]), 4)
    assert four[0].tolist() == [7.0, -8.0, 3.0, 0.0]
    random = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    step = random.abs().amax(dim=-1, keepdim=True) / 127.5
    assert ((on_grid(random, 8) - random).abs() <= step / 2 + 1e-6).all()
    assert torch.allclose(on_grid(on_grid(random, 8), 8), on_grid(random, 8), atol=0.02)


def test_the_gradient_passes_as_if_nothing_was_rounded() -> None:
    values = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.arange(24, dtype=torch.float64).view(3, 8)
    (weights * straight_through(values, 8) ** 2).sum().backward()
    assert torch.equal(values.grad, 2 * weights * on_grid(values.detach(), 8))


def test_layers_round_while_they_learn_and_are_plain_after(tmp_path) -> None:
    layer = nn.Sequential(nn.Linear(128, 4), nn.Linear(4, 2))
    weight = layer[0].weight
    given = torch.randn(5, 128)
    wanted = on_grid(given, 8) @ on_grid(weight, 8).T + layer[0].bias
    assert round_layers(layer, "w8a8") == 2
    assert isinstance(layer[0], W8A8Linear)
    assert torch.equal(layer[0](given), wanted)
    unround_layers(layer)
    assert type(layer[0]) is nn.Linear
    assert layer[0].weight is weight
    groups = nn.Linear(256, 3, bias=False)
    round_layers(nn.Sequential(groups), "w4a16")
    assert torch.allclose(groups(torch.eye(256)).T[:, :128], on_grid(groups.weight[:, :128], 4), atol=1e-6)
    mixed = nn.Sequential(nn.Linear(192, 128, bias=False), nn.Linear(128, 2))  # 192 values are 1.5 groups of 128
    round_layers(mixed, "w4a16")
    assert torch.allclose(mixed[0](torch.eye(192)).T[:, 64:128], on_grid(mixed[0].weight[:, 64:128], 4), atol=1e-6)
    unround_layers(mixed)
    assert not hasattr(mixed[0], "group")
    with pytest.raises(ModelError, match="reads 4 values, which groups of 32 do not divide"):
        round_layers(layer, "w4a16")


def test_a_model_that_learned_rounded_loses_less_when_it_is(tmp_path) -> None:
    known = [(text.request.question, text.answer) for text in texts(8)]
    plain = tiny_causal_lm(tmp_path / "plain", taught=known, steps=25)
    candidate = LanguageModel(
        architecture="causal_lm", base="x", quantization_aware_epochs=4.0, batch_size=512, step_tokens=512
    )
    data = texts(40)
    # 4 bits: on a model this small 8 lose nothing to win back.
    learn_rounded(candidate, plain, tmp_path / "aware", "w4a16", data[:32], data[32:])
    batch = batch_of([encode(tiny_tokenizer(), texts(48)[40:], 200)[0]], 0)
    found = {}
    for name in ("plain", "aware"):
        model = load_model(tmp_path / name, tiny_tokenizer()).eval()
        with torch.no_grad():
            if name == "plain":
                p = log_probabilities(logits_of(model, states_of(model, batch)))
            round_layers(model, "w4a16")
            found[name] = float(forward_kl(p, log_probabilities(logits_of(model, states_of(model, batch)))).mean())
    assert found["aware"] < 0.8 * found["plain"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aware", "plain"]


@pytest.mark.slow
@needs_quantising
@pytest.mark.parametrize("scheme", ["w8a8"])
def test_the_grid_is_what_the_quantised_checkpoint_holds(tmp_path, scheme) -> None:
    plain = tiny_causal_lm(tmp_path / "plain")
    quantise(plain, tmp_path / scheme, scheme, [])
    held = load_file(tmp_path / scheme / "model.safetensors")
    floats = load_file(plain / "model.safetensors")
    names = [name.removesuffix("_scale") for name in held if name.endswith("_scale")]
    assert len(names) == 14
    for name in names:
        assert held[name].dtype == torch.int8
        stored = held[name].float() * held[f"{name}_scale"].float()
        assert torch.allclose(stored, on_grid(floats[name], 8), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@needs_quantising
def test_w4a16_takes_groups_that_divide_what_layers_read(tmp_path) -> None:
    plain = tiny_causal_lm(tmp_path / "plain", hidden=192)
    quantise(plain, tmp_path / "w4a16", "w4a16", [], rounded=True)
    config = json.loads((tmp_path / "w4a16" / "config.json").read_text(encoding="utf-8"))
    groups = config["quantization_config"]["config_groups"]
    assert [one["weights"]["group_size"] for one in groups.values()] == [64]
