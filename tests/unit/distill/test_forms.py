"""Which form of a tuned model serves: by what was measured, and never one that loses what the task wants kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stillhouse.distill.causal_lm import forms
from stillhouse.distill.causal_lm.examples import WrittenText
from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.asking import Asked, Written
from stillhouse.models.vllm.recorded import read_recorded
from stillhouse.models.vllm.supported import Target
from stillhouse.tasks import LanguageModel

TEXTS = [WrittenText(ChatRequest.of("text", f"question {n}"), f"answer {n}") for n in range(200)]


@dataclass
class Runtime:
    """Stands for quantising and serving: answers rightly but for a share of the cases, at a price in CPU."""

    wrong: dict[str, int] = field(default_factory=lambda: {"none": 10, "w8a8": 12})
    cpu: dict[str, float] = field(default_factory=lambda: {"none": 1.0, "w8a8": 0.5})
    asked: list[str] = field(default_factory=list)

    def quantise(self, folder: Path, out: Path, scheme: str, calibration: list) -> None:
        assert len(calibration) == 128
        assert calibration[0][-1]["role"] == "assistant"
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"int8")

    def ask_all(self, folder: Path, home: Path, requests: list[ChatRequest], on_progress) -> Asked:
        form = CausalLmSpec.read(folder).quantization
        self.asked.append(form)
        numbers = [request.question.removeprefix("question ") for request in requests]
        answers = [
            Written("wrong", 0.5, (-1.0, -0.1), (0.2, 3.0), 10)
            if place < self.wrong[form]
            else Written(f"answer {number}", 0.9, (-0.01, -0.02), (5.0, 6.0), 10)
            for place, number in enumerate(numbers)
        ]
        return Asked(answers, self.cpu[form] * len(requests), 2.0)


@pytest.fixture
def runtime(monkeypatch) -> Runtime:
    found = Runtime()
    monkeypatch.setattr(forms, "quantise", found.quantise)
    monkeypatch.setattr(forms, "ask_all", found.ask_all)
    monkeypatch.setattr(forms, "detect", lambda with_gpu: Target(avx2=True))
    return found


def choose(tmp_path: Path, quantization: str = "auto", loss: float = 0.02, aware: float = 0.0) -> forms.Form:
    plain = tmp_path / "merged"
    plain.mkdir(exist_ok=True)
    (plain / "model.safetensors").write_bytes(b"float32 " * 4)
    fields = {"architecture": "causal_lm", "base": "x", "quantization": quantization, "max_quantization_loss": loss}
    fields["quantization_aware_epochs"] = aware
    return forms.choose_form(
        plain,
        CausalLmSpec("s", "x"),
        LanguageModel.model_validate(fields),
        TEXTS,
        TEXTS,
        lambda ours, theirs: ours == theirs,
        tmp_path,
        tmp_path,
        "learned",
        lambda phase, share, **numbers: None,
    )


def test_the_cheapest_form_that_keeps_agreement_serves(runtime, tmp_path) -> None:
    form = choose(tmp_path)
    assert form.spec.quantization == "w8a8"
    assert form.folder == tmp_path / "w8a8"
    assert form.spec.cpu_s_per_token == pytest.approx(0.05)
    assert [one.agreement for one in form.measured] == [0.95, 0.94]
    assert form.spec.confidence.kind == "learned"
    assert form.spec.confidence.of_written((-0.01,), (5.0,)) > form.spec.confidence.of_written((-1.0,), (0.2,))
    assert "float32" in form.refused["w4a16"]


def test_the_answers_that_it_was_surest_of_travel_with_it(runtime, tmp_path) -> None:
    kept = read_recorded(choose(tmp_path).folder)
    assert len(kept) == 5
    assert {one.output.split()[0] for one in kept} == {"answer"}, "those that it was less sure of are wrong"
    assert kept[0].asked["messages"][0]["content"] == kept[0].output.replace("answer", "question")
    assert "model" not in kept[0].asked


def test_a_dearer_form_does_not_serve(runtime, tmp_path) -> None:
    runtime.cpu["w8a8"] = 2.0
    assert choose(tmp_path).spec.quantization == "none"


def test_a_form_that_loses_too_much_is_refused(runtime, tmp_path) -> None:
    runtime.wrong["w8a8"] = 30
    form = choose(tmp_path)
    assert form.spec.quantization == "none"
    assert form.refused["w8a8"] == "agreement falls from 0.950 to 0.850"
    with pytest.raises(ModelError, match="max_quantization_loss"):
        choose(tmp_path, "w8a8")


def test_what_was_measured_is_not_measured_again(runtime, tmp_path) -> None:
    assert choose(tmp_path) == choose(tmp_path)
    assert runtime.asked == ["none", "w8a8"]
    assert json.loads((tmp_path / "measured-none.json").read_text())["measured"]["n"] == 200


def test_what_the_machine_cannot_run_is_refused_before_anything_is_trained(runtime) -> None:
    with pytest.raises(ModelError, match="float32"):
        forms.wanted_forms(LanguageModel(architecture="causal_lm", base="x", quantization="w4a16"))


def test_a_form_that_loses_too_much_learns_to_be_rounded_where_the_rung_has_epochs_for_it(
    runtime, tmp_path, monkeypatch
) -> None:
    from stillhouse.distill.causal_lm import quantisation_aware

    runtime.wrong["w8a8"] = 30
    asked = []

    def learn_rounded(candidate, plain, out, scheme, train, select, **_: object) -> None:
        asked.append((plain.name, scheme, candidate.quantization_aware_epochs))
        out.mkdir()

    def quantise(folder, out, scheme, calibration, *, rounded=False) -> None:
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"int8")
        if rounded:
            assert folder.name == "w8a8-learned"
            runtime.wrong["w8a8"] = 11

    monkeypatch.setattr(quantisation_aware, "learn_rounded", learn_rounded)
    monkeypatch.setattr(forms, "quantise", quantise)
    form = choose(tmp_path, aware=2.0)
    assert asked == [("merged", "w8a8", 2.0)]
    assert form.folder == tmp_path / "w8a8-aware"
    assert form.spec.quantization == "w8a8"
    assert [round(one.agreement, 3) for one in form.measured] == [0.95, 0.945]
    assert choose(tmp_path, aware=2.0) == form  # nothing is learned or asked twice
    assert runtime.asked == ["none", "w8a8", "w8a8"]
