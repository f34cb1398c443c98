"""Classifiers and rerankers in several processes: torchrun with gloo on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stillhouse.distill.rerankers.training import train_reranker
from stillhouse.distill.training import train
from stillhouse.models.port import ModelError
from stillhouse.tasks import RerankerStudent, StudentCandidate
from tests.integration.distill.test_rerank_training import lists
from tests.unit.distill.test_training import CANDIDATE
from tests.unit.distill.toy import LABELS, texts

ALONE = StudentCandidate.model_validate(CANDIDATE.model_dump() | {"accumulate": 2, "epochs": 2})
TOGETHER = ALONE.model_copy(update={"processes": 2})


def learn(folder, candidate, **changes):
    folder.mkdir(exist_ok=True)
    said: list = []
    rows = {"train": texts(120), "select": texts(60, seed=1)} | changes
    trained = train(candidate, LABELS, **rows, on_progress=said.append, checkpoint_dir=folder, seed=1)
    return trained, said


@pytest.mark.slow
def test_two_processes_teach_a_classifier_what_one_does(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    one, alone = learn(tmp_path / "one", ALONE)
    two, together = learn(tmp_path / "two", TOGETHER)
    assert [epoch.train_loss for epoch in together] == pytest.approx([epoch.train_loss for epoch in alone], rel=1e-5)
    assert [epoch.epoch for epoch in together] == [1, 2]  # said once, by the first
    for name, weight in one.module.state_dict().items():
        assert torch.allclose(two.module.state_dict()[name], weight, atol=1e-5), name
    assert not (tmp_path / "two" / "together").exists()  # it held texts
    again, said = learn(tmp_path / "two", TOGETHER)
    assert said == []  # a finished run is only loaded
    assert all(torch.equal(again.module.state_dict()[name], w) for name, w in two.module.state_dict().items())
    wild = TOGETHER.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ModelError, match="diverged in epoch 1; set a learning_rate below"):
        learn(tmp_path / "wild", wild)


@pytest.mark.slow
def test_two_processes_teach_a_reranker_what_one_does(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    alone = RerankerStudent(architecture="bi_encoder", layers=1, learn_layers=1, max_tokens=32, epochs=1)
    made = []
    for number, candidate in enumerate((alone, alone.model_copy(update={"processes": 2}))):
        (tmp_path / str(number)).mkdir()
        said: list = []
        trained = train_reranker(
            candidate,
            lists(12, 0),
            lists(4, 1),
            on_progress=said.append,
            checkpoint_dir=tmp_path / str(number),
            seed=0,
        )
        made.append((trained.module.state_dict(), said[0].select_loss))
    assert made[0][1] == pytest.approx(made[1][1], rel=1e-4)
    assert all(np.allclose(weight, made[1][0][name], atol=1e-5) for name, weight in made[0][0].items())


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        (StudentCandidate, {"architecture": "hashed_ngrams", "processes": 2}, "set accumulate to 2 or more"),
        (
            StudentCandidate,
            {"architecture": "hashed_ngrams", "processes": 2, "accumulate": 2, "curriculum": "loss"},
            "curriculum loss is learnt by one process",
        ),
        (RerankerStudent, {"architecture": "bi_encoder", "processes": 8}, "set batch_size to 8 or more"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(kind, changes, why) -> None:
    with pytest.raises(ValidationError, match=why):
        kind.model_validate(changes)
