"""Both students from texts to the files that serve, and what ONNX Runtime answers from them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from stillhouse.distill import export as exporting
from stillhouse.distill.export import Int8Rows, export
from stillhouse.distill.training import TrainedStudent, predict, train
from stillhouse.models.artefact import publish, verify
from stillhouse.models.features import MODEL_FILE, SPEC_FILE, TOKENIZER_FILE, Featuriser, prepare
from stillhouse.models.port import ModelError
from stillhouse.models.student import OnnxStudent
from stillhouse.tasks import StudentCandidate
from tests.unit.distill.toy import LABELS, texts

HASHED = StudentCandidate(architecture="hashed_ngrams", dim=16, epochs=6, batch_size=16)
CUT = StudentCandidate(architecture="cut_encoder", layers=2, epochs=2, batch_size=16, learning_rate=1e-3)
ODD = ["", "?", "word " * 3000, "日本語 ünïcode \u0000 <email>", "write to me@example.org"]


class Killed(Exception):
    """Stands for the process being killed."""


@pytest.fixture(scope="module", params=[HASHED, CUT], ids=["hashed_ngrams", "cut_encoder"])
def trained(request, tmp_path_factory) -> TrainedStudent:
    return learn(request.param, tmp_path_factory.mktemp("checkpoints"))


def learn(candidate, folder, kill_after=None) -> TrainedStudent:
    def on_progress(progress) -> None:
        if progress.epoch == kill_after:
            raise Killed

    return train(
        candidate, LABELS, texts(160), texts(60, seed=1), on_progress=on_progress, checkpoint_dir=folder, seed=0
    )


def test_the_files_answer_as_the_trained_module_does(trained, tmp_path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    report = export(trained, staging, "intents-1")
    tokens = trained.tokenizer is not None
    assert {path.name for path in staging.iterdir()} == {MODEL_FILE, SPEC_FILE} | (
        {TOKENIZER_FILE} if tokens else set()
    )
    assert report.n_compared == 60
    assert report.agreement_with_torch >= 0.97
    assert report.table_bits == 8
    assert report.bytes == sum(path.stat().st_size for path in staging.iterdir())
    assert report.bytes < (20e6 if tokens else 1e6)

    student = OnnxStudent(verify(publish(staging, tmp_path / "intents-1")))
    assert student.student_id == "intents-1"
    assert student.spec.temperature == trained.temperature
    right = [student.predict_text(text.text)[0] == text.label for text in texts(100, seed=2)]
    assert np.mean(right) > 0.9
    for text in ODD:
        label, confidence, _ = student.predict_text(text)
        assert label in LABELS
        assert 0 < confidence <= 1


def test_the_graph_keeps_its_contract(trained, tmp_path) -> None:
    export(trained, tmp_path, "intents-1")
    graph = onnx.load(str(tmp_path / MODEL_FILE)).graph
    shapes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    inputs = {"input_ids", "attention_mask"} if trained.tokenizer else {"features"}
    assert shapes.keys() == inputs | {"logits"}
    assert shapes["logits"] == [1, len(LABELS)]
    assert all(shapes[name][0] == 1 and isinstance(shapes[name][1], str) for name in inputs)
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert types == dict.fromkeys(inputs, onnx.TensorProto.INT64) | {"logits": onnx.TensorProto.FLOAT}
    assert "torch" not in json.loads((tmp_path / SPEC_FILE).read_text())


def test_less_is_quantised_where_int8_changes_answers(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "Int8Rows", lambda table: Int8Rows(torch.flip(table, [0])))  # a ruined table
    report = export(trained, tmp_path, "intents-1")
    assert report.table_bits == 32
    assert report.agreement_with_torch >= 0.97


def test_a_graph_that_answers_something_else_is_refused(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "predict", lambda *of: -predict(*of))
    with pytest.raises(ModelError, match="intents-1: the exported graph gives"):
        export(trained, tmp_path, "intents-1")


def test_a_table_of_int8_is_close_and_keeps_zeros() -> None:
    table = torch.randn(50, 8) * torch.logspace(-3, 3, 50).unsqueeze(1)
    table[0] = 0
    rows = torch.arange(50).unsqueeze(0)
    difference = (Int8Rows(table)(rows)[0] - table).abs()
    assert (difference <= table.abs().amax(dim=1, keepdim=True) / 250).all()
    assert not Int8Rows(table)(rows)[0, 0].any()


def test_a_killed_encoder_run_ends_as_if_it_had_not_been(tmp_path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = learn(CUT, tmp_path / "whole")
    with pytest.raises(Killed):
        learn(CUT, tmp_path / "killed", kill_after=1)
    resumed = learn(CUT, tmp_path / "killed")
    one, two = whole.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert whole.temperature == resumed.temperature


def test_padding_does_not_change_an_encoder_s_answer(tmp_path) -> None:
    trained = learn(CUT, tmp_path)
    featuriser = Featuriser(trained.spec, trained.tokenizer)
    short, long = (featuriser.ids(prepare(text)) for text in ("refund", "refund " * 20))
    alone, together = predict(trained.module, [short], True), predict(trained.module, [short, long], True)
    assert alone[0] == pytest.approx(together[0], abs=1e-4)
