"""The example programs run in their small mode, as a user runs them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest

from stillhouse.distill.architecture.counting import parameters, weight_bytes
from stillhouse.environments.environment import exists
from tests.benchmarks.meta import ROOT


def ran(name: str) -> dict[str, Any]:
    program = ROOT / "deploy" / "examples" / f"{name}.py"
    done = subprocess.run([sys.executable, str(program), "--small"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_teacher_of_bert_large_takes_340_mb_as_int8(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "deploy" / "examples"))
    shape = importlib.import_module("bert_large_to_mobile").BERT_LARGE
    assert parameters(shape) == pytest.approx(334e6, rel=0.01)
    assert 0.33e9 < weight_bytes(shape, 8, 8) < 0.35e9
    assert weight_bytes(shape, 32, 32) == 4 * parameters(shape)


@pytest.mark.slow
def test_five_models_become_one() -> None:
    said = ran("five_to_one")
    assert len(said["accuracy_of_each"]) == 5
    assert said["accuracy_of_five"].keys() == {"averaged", "by_confidence"} > {said["teacher"]}
    assert said["agreement_of_one_with_five"] > 0.9
    assert said["mb_of_one"] < said["mb_of_five"] / 4
    assert said["judged"] >= 100


@pytest.mark.slow
def test_a_large_encoder_goes_to_a_phone() -> None:
    said = ran("bert_large_to_mobile")
    assert said["student"]["mflop_of_32_tokens"] < said["teacher"]["mflop_of_32_tokens"] / 4
    assert said["student"]["int8_agreement_with_torch"] >= 0.97
    assert said["teacher_weights"].startswith("random")
    if exists("litert"):
        assert said["litert"]["agreement_with_torch"] >= 0.97
    else:
        assert said["litert"].startswith("not run")
