"""A local teacher's probabilities: kept, compared, drawn on; and bases that are cut before they learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import Encoded, encode
from stillhouse.distill.causal_lm.forward import logits_of, states_of
from stillhouse.distill.causal_lm.lessons import drawn, hard, soft
from stillhouse.distill.causal_lm.on_policy import draw, draws
from stillhouse.distill.causal_lm.packing import batch_of
from stillhouse.distill.causal_lm.scores import Scores, score
from stillhouse.distill.causal_lm.sft import Progress, tune
from stillhouse.distill.causal_lm.teacher import LocalTeacher, check_tokenizers, teacher_digest
from stillhouse.distill.objectives.forward_kl import forward_kl
from stillhouse.distill.objectives.reverse_kl import reverse_kl
from stillhouse.distill.objectives.tokens import log_probabilities
from stillhouse.models.port import ModelError
from stillhouse.tasks import LanguageModel
from tests.tiny_models import tiny_causal_lm, tiny_tokenizer
from tests.unit.distill.test_sft import texts

TOKENS = 384


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """A student, and a teacher that knows some of the answers."""
    folder = tmp_path_factory.mktemp("models")
    known = [(text.request.question, text.answer) for text in texts(12)]
    return tiny_causal_lm(folder / "student"), tiny_causal_lm(folder / "teacher", seed=1, taught=known, steps=40)


def candidate(student: Path, teacher: Path | None = None, **changes: object) -> LanguageModel:
    fields = {
        "architecture": "causal_lm",
        "base": str(student),
        "method": "full",
        "learning_rate": 2e-3,
        "batch_size": 512,
        "step_tokens": 512,
        "epochs": 1.0,
        "max_new_tokens": 16,
    }
    if teacher is not None:
        fields |= {"teacher_model": str(teacher), "objective": "forward_kl"}
    return LanguageModel.model_validate(fields | changes)


def learn(folder: Path, given: LanguageModel, n: int = 40) -> tuple[object, list[Progress]]:
    folder.mkdir(exist_ok=True)
    seen: list[Progress] = []
    data = texts(n + 8)
    teacher = Path(given.teacher_model) if given.teacher_model else None
    found = tune(
        given, Path(given.base), data[:-8], data[-8:], on_progress=seen.append, checkpoint_dir=folder, teacher=teacher
    )
    return found, seen


def scores_of(folder: Path, teacher: Path, examples: list[Encoded], k: int | None, temperature: float = 1.0) -> Scores:
    def load() -> LocalTeacher:
        return LocalTeacher.load(teacher, load_tokenizer(teacher))

    return score(folder, load, teacher_digest(teacher), examples, 2, k=k, temperature=temperature)


def said(folder: Path, batch) -> torch.Tensor:
    model = load_model(folder, load_tokenizer(folder)).eval()
    with torch.no_grad():
        return logits_of(model, states_of(model, batch))


@pytest.mark.parametrize("objective", ["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"])
@pytest.mark.parametrize("top_k", [None, 20])
def test_every_objective_trains(models, tmp_path, objective, top_k) -> None:
    found, seen = learn(tmp_path / "run", candidate(*models, objective=objective, top_k=top_k))
    print(objective, top_k, [p.select_loss for p in seen], found.score_bytes_per_token)


@pytest.mark.parametrize("objective", ["reverse_kl", "minillm"])
def test_on_policy(models, tmp_path, objective) -> None:
    found, seen = learn(tmp_path / "run", candidate(*models, objective=objective, on_policy=1.0))
    print(objective, [p.select_loss for p in seen], [p.train_loss for p in seen])


def test_pruned(models, tmp_path) -> None:
    found, seen = learn(
        tmp_path / "run", candidate(models[1], models[1], keep_layers=1, keep_neurons=0.5, keep_heads=0.5)
    )
    print(found.model.config, [p.select_loss for p in seen], found.kept_layers)
