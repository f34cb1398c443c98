"""What a student forgot: the divergence by hand, weights computed back from integers, probes that count."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.forgetting import Probe, forgotten, kl_of, load_student, read_probes
from stillhouse.models.port import ModelError
from tests.tiny_models import tiny_causal_lm

PROBES = [
    Probe("what is ice?", "frozen water", ("a bird", "a hammer")),
    Probe("who barks?", "a dog barks", ("a fish barks",)),
    Probe("is grass green?", "yes, grass is green", ("no, grass is a number",)),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    taught = [(probe.question, probe.right) for probe in PROBES]
    return tiny_causal_lm(tmp_path_factory.mktemp("base"), seed=3, taught=taught, steps=80)


def test_the_divergence_is_the_sum_over_the_vocabulary() -> None:
    base = torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    student = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    by_hand = 0.7 * math.log(0.7 / 0.5) + 0.2 * math.log(0.2 / 0.25) + 0.1 * math.log(0.1 / 0.25)
    assert kl_of(base.log(), student.log()).tolist() == pytest.approx([by_hand, 0.0])
    with pytest.raises(ValueError, match=r"two tables of one shape; got .*\[2, 3\].* and .*\[3\]"):
        kl_of(base.log(), student[0].log())


def test_a_base_forgets_nothing_of_itself_and_knows_what_it_was_taught(base) -> None:
    found = forgotten(base, base, PROBES)
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert (found.probes, found.known, found.kept) == (3, 3, 3)
    assert found.tokens > 30


def test_another_model_has_forgotten_what_the_base_knew(base, tmp_path) -> None:
    found = forgotten(base, tiny_causal_lm(tmp_path / "other", seed=9), PROBES)
    assert found.kl > 1.0
    assert found.kept < found.known == 3


def test_integer_weights_are_computed_back(base, tmp_path) -> None:
    folder = tmp_path / "w8a8"
    folder.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    weights, stored = load_file(base / "model.safetensors"), {}
    for name, value in weights.items():
        if "_proj.weight" in name:
            scale = value.abs().amax(dim=1, keepdim=True) / 127
            stored[name] = (value / scale).round().to(torch.int8)
            stored[f"{name}_scale"] = scale
        else:
            stored[name] = value
    save_file(stored, folder / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"format": "int-quantized", "quant_method": "compressed-tensors"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(base)
    plain = load_model(base, tokenizer).state_dict()
    back = load_student(folder, tokenizer).state_dict()
    for name, value in plain.items():
        assert torch.allclose(back[name], value, atol=float(value.abs().max()) / 127), name
    assert 0.0 < forgotten(base, folder, PROBES).kl < 0.05

    stored = {name.replace("q_proj.weight", "q_proj.weight_packed"): value for name, value in stored.items()}
    stored["model.layers.0.self_attn.q_proj.weight_scale"] = torch.ones(1, 1)
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be compared; forgetting needs none or w8a8"):
        load_student(folder, tokenizer)


def test_the_suite_is_whole_and_a_bad_file_gets_one_sentence(tmp_path) -> None:
    suite = read_probes()
    assert len({probe.question for probe in suite}) == len(suite) >= 50
    assert all(probe.right not in probe.wrong for probe in suite)
    path = tmp_path / "probes.jsonl"
    path.write_text('{"question": "q", "right": "r", "wrong": ["w"]}\n{"question": "q"}\n')
    with pytest.raises(ValueError, match=r"probes.jsonl line 2: needs question, right and wrong"):
        read_probes(path)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no probe"):
        read_probes(path)
