"""What learned on with the rounding of int8 (`quantization_aware_epochs`) loses less by it, and is floats again."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pydantic import ValidationError

from stillhouse.distill import quantisation_aware, training
from stillhouse.distill.data import hard_targets
from stillhouse.distill.training import Progress, TrainedStudent, lower_states, predict
from stillhouse.models.features import Featuriser, prepare
from stillhouse.tasks import StudentCandidate
from tests.unit.distill.test_training import Killed, run
from tests.unit.distill.toy import LABELS, texts

PLAIN = StudentCandidate(architecture="cut_encoder", layers=2, epochs=2, batch_size=16)
AWARE = PLAIN.model_copy(update={"quantization_aware_epochs": 3})
coarse = partial(quantisation_aware.rounded, levels=3)  # int8 hardly changes what three classes of toy texts are told


@pytest.fixture(autouse=True)
def _coarse(monkeypatch) -> None:
    monkeypatch.setattr(training, "rounded", coarse)


def learn(folder, candidate, kill_after=None) -> tuple[TrainedStudent, list[Progress]]:
    return run(folder, candidate=candidate, kill_after=kill_after, learnt=96, chosen=48)


def losses(trained: TrainedStudent) -> tuple[float, float]:
    """The loss on unseen texts as it is, and rounded."""
    unseen = texts(90, seed=2)
    ids = [Featuriser(trained.spec, trained.tokenizer).ids(prepare(text.text)) for text in unseen]
    answers = hard_targets(unseen, LABELS)

    def loss() -> float:
        logits = torch.from_numpy(predict(trained.module, lower_states(trained.module, ids), True))
        return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(answers)))

    plain = loss()
    with coarse(trained.module):
        return plain, loss()


def test_what_learned_to_be_rounded_loses_less_by_it_and_is_resumed_to_the_bit(tmp_path) -> None:
    plain, _ = learn(tmp_path / "plain", PLAIN)
    aware, said = learn(tmp_path / "aware", AWARE)
    assert [progress.epoch for progress in said] == [1, 2, 3, 4, 5]
    assert {progress.epochs for progress in said} == {5}
    assert said[3].seconds > said[2].seconds > said[1].seconds
    (before, before_rounded), (after, after_rounded) = losses(plain), losses(aware)
    assert after_rounded - after < before_rounded - before
    assert after_rounded < before_rounded
    names = {name for name, _ in plain.module.named_parameters()}
    assert {name for name, _ in aware.module.named_parameters()} == names
    with pytest.raises(Killed):
        learn(tmp_path / "killed", AWARE, kill_after=4)
    again, rest = learn(tmp_path / "killed", AWARE)
    assert [progress.epoch for progress in rest] == [5]
    assert rest[0].seconds > 0
    state = again.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in aware.module.state_dict().items())
    assert again.temperature == aware.temperature


@pytest.mark.parametrize("architecture", ["hashed_ngrams", "static_embeddings", "text_cnn"])
def test_what_serves_in_floats_is_refused(architecture) -> None:
    with pytest.raises(ValidationError, match=f"is for cut_encoder and joint; the matrices of {architecture}"):
        StudentCandidate(architecture=architecture, quantization_aware_epochs=1)
