"""A rung that trains in several processes: torchrun with gloo on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.trainer.writing import _together
from stillhouse.distill.causal_lm.sft import tune
from stillhouse.files import read_json
from stillhouse.models.port import ModelError
from tests.tiny_models import tiny_causal_lm
from tests.unit.distill.test_sft import candidate, texts


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path, monkeypatch) -> None:
    """The same losses and weights as one process, one checkpoint, and no texts left behind."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    base, data, seen, parts = tiny_causal_lm(tmp_path / "base"), texts(60), [], []
    given = candidate(base, method="full", epochs=0.5, learning_rate=1e-3, processes=2)
    (tmp_path / "one").mkdir()
    one = tune(given, base, data[:-20], data[-20:], on_progress=seen.append, checkpoint_dir=tmp_path / "one")
    numbers = _together(tmp_path, given, base, None, data[:-20], data[-20:], parts.append)
    assert [part["select_loss"] for part in parts] == pytest.approx([part.select_loss for part in seen], rel=1e-5)
    assert [part["train_loss"] for part in parts] == pytest.approx([part.train_loss for part in seen], rel=1e-5)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, weight in one.model.state_dict().items():
        assert torch.allclose(merged[name], weight, atol=1e-5), name
    assert read_json(tmp_path / "tuned.json") == numbers
    assert numbers["trained_tokens"] == one.trained_tokens
    assert not (tmp_path / "together").exists()
    with pytest.raises(ModelError, match="set a larger max_tokens"):
        _together(tmp_path, given.model_copy(update={"max_tokens": 16}), base, None, data, data, parts.append)
