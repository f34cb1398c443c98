"""What is measured of a module whose costs are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stillhouse.distill.architecture.analyze import Part, Pass, Written, analyze, bottleneck, kind_of, parts_of
from stillhouse.distill.architecture.loading import States, folder_of, load, tokens
from stillhouse.models.port import ModelError
from tests.unit.distill.architecture.test_counting import SMALL, bert


class Two(nn.Module):
    """Two matrices, 6 -> 4 -> 2."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.head(self.mlp(x).view(-1, 4))
        return said


def test_a_small_module_costs_what_it_must() -> None:
    found = analyze(Two(), lambda batch, length: (torch.ones(batch, length, 6),), "two", length=3, batches=(1, 2))
    mlp, head = found.parts
    assert (mlp.kind, mlp.parameters, mlp.bytes) == ("mlp", 6 * 4 + 4, 4 * 28)
    assert (mlp.flops_per_token, head.flops_per_token) == (2 * 6 * 4, 2 * 4 * 2)
    assert (mlp.activation_bytes, head.activation_bytes) == (4 * 3 * 4, 4 * 3 * 2)
    assert [one.flops for one in found.passes] == [3 * 64, 6 * 64]
    assert found.passes[1].activation_bytes == 2 * 4 * 3 * (4 + 2)
    assert found.share["mlp"]["flops"] == pytest.approx(48 / 64)


def test_an_encoder_is_split_into_attention_and_mlp() -> None:
    found = analyze(States(bert(SMALL)), tokens, "bert", length=8, batches=(1,), repeats=1)
    assert found.layers == 2
    assert sum(part.parameters for part in found.parts) == found.parameters
    assert sum(part.flops_per_token for part in found.parts) * 8 == pytest.approx(found.passes[0].flops)
    # Of one layer and token: 8 d^2 + 4 n d in attention, 4 d f in the rest.
    attention = sum(part.flops_per_token for part in found.parts if part.kind == "attention")
    assert attention == 2 * (8 * 24**2 + 4 * 8 * 24)
    assert found.share["mlp"]["flops"] == pytest.approx(4 * 24 * 40 / (8 * 24**2 + 4 * 8 * 24 + 4 * 24 * 40))


def test_views_write_nothing() -> None:
    x = torch.ones(4, 4)
    with Written() as written:
        x.view(16)
        x.transpose(0, 1)
        assert written.bytes == 0
        x + 1
    assert written.bytes == 64


def test_modules_are_named_by_what_they_do() -> None:
    assert parts_of(Two()) == ["mlp", "head"]
    names = {
        "layer.post_attention_layernorm": "norm",
        "layer.self_attn": "attention",
        "wte": "embeddings",
        "x": "other",
    }
    assert {name: kind_of(name, nn.Identity()) for name in names} == names


def test_the_bottleneck_is_where_the_time_is() -> None:
    parts = [Part("a", "attention", 1, 4, 1.0, 0, 9.0), Part("m", "mlp", 1, 8_000_000, 3.0, 0, 1.0)]
    share = {"attention": {"flops": 0.25, "time": 0.9}, "mlp": {"flops": 0.75, "time": 0.1}}
    said = bottleneck(parts, share, [Pass(1, 8, 1, 1, 10.0), Pass(32, 8, 32, 1, 32.0)])
    assert said.startswith("90% of the time is attention (25% of the operations)")
    assert "m with 8.0 MB" in said
    assert "10.0 times less in a batch of 32" in said


def test_what_is_no_model_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="no model; name `minilm`"):
        folder_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="holds no safetensors"):
        load(tmp_path)
    with pytest.raises(ModelError, match="at least 1"):
        analyze(Two(), tokens, "two", length=0)
