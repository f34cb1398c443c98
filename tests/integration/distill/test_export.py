"""Both students from texts to the files that serve, and what ONNX Runtime answers from them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from stillhouse.distill import export as exporting
from stillhouse.distill.cut_encoder import kept_layers
from stillhouse.distill.export import Int8Rows, export
from stillhouse.distill.training import TrainedStudent, predict, train
from stillhouse.models.artefact import publish, verify
from stillhouse.models.encoder import WIDTH
from stillhouse.models.features import CENTROIDS_FILE, MODEL_FILE, SPEC_FILE, TOKENIZER_FILE, Featuriser, prepare
from stillhouse.models.port import ModelError
from stillhouse.models.student import OnnxStudent
from stillhouse.tasks import StudentCandidate
from tests.unit.distill.toy import LABELS, texts

HASHED = StudentCandidate(architecture="hashed_ngrams", dim=16, epochs=6, batch_size=16)
CUT = StudentCandidate(architecture="cut_encoder", layers=2, epochs=2, batch_size=16, learning_rate=1e-3)
ODD = ["", "?", "word " * 3000, "日本語 ünïcode \u0000 <email>", "write to me@example.org"]


class Killed(Exception):
    """Stands for the process being killed."""


@pytest.fixture(scope="module")
def hashed(tmp_path_factory) -> TrainedStudent:
    return learn(HASHED, tmp_path_factory.mktemp("hashed"))


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> TrainedStudent:
    return learn(CUT, tmp_path_factory.mktemp("cut"))


def learn(candidate, folder, kill_after=None) -> TrainedStudent:
    def on_progress(progress) -> None:
        if progress.epoch == kill_after:
            raise Killed

    return train(
        candidate, LABELS, texts(160), texts(60, seed=1), on_progress=on_progress, checkpoint_dir=folder, seed=0
    )


@pytest.mark.parametrize(
    ("architecture", "inputs", "files", "most_bytes"),
    [
        ("hashed", {"features"}, {MODEL_FILE, SPEC_FILE}, 1e6),
        ("cut", {"input_ids", "attention_mask"}, {MODEL_FILE, SPEC_FILE, TOKENIZER_FILE, CENTROIDS_FILE}, 20e6),
    ],
)
def test_the_files_answer_as_the_trained_module_does(
    request, tmp_path, architecture, inputs, files, most_bytes
) -> None:
    trained: TrainedStudent = request.getfixturevalue(architecture)
    staging = tmp_path / "staging"
    staging.mkdir()
    report = export(trained, staging, "intents-1")
    assert {path.name for path in staging.iterdir()} == files
    assert report.n_compared == 60
    assert report.agreement_with_torch >= 0.97
    assert report.table_bits == 8
    assert report.bytes == sum(path.stat().st_size for path in staging.iterdir()) < most_bytes

    graph = onnx.load(str(staging / MODEL_FILE)).graph
    types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
    shapes = {name: [dim.dim_value or dim.dim_param for dim in kind.shape.dim] for name, kind in types.items()}
    assert shapes.pop("logits") == [1, len(LABELS)]
    assert types.pop("logits").elem_type == onnx.TensorProto.FLOAT
    if architecture == "cut":
        assert types.pop("pooled").elem_type == onnx.TensorProto.FLOAT
        assert shapes.pop("pooled") == [1, WIDTH]
    assert types.keys() == inputs
    assert all(kind.elem_type == onnx.TensorProto.INT64 for kind in types.values())
    assert all(batch == 1 and isinstance(length, str) for batch, length in shapes.values())

    student = OnnxStudent(verify(publish(staging, tmp_path / "intents-1")))
    assert student.student_id == "intents-1"
    assert student.spec.temperature == trained.temperature
    right = [student.predict_text(text.text)[0] == text.label for text in texts(100, seed=2)]
    assert np.mean(right) > 0.9
    for text in ODD:
        label, confidence, _ = student.predict_text(text)
        assert label in LABELS
        assert 0 < confidence <= 1


def test_less_is_quantised_where_int8_changes_answers(hashed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "Int8Rows", lambda table: Int8Rows(torch.flip(table, [0])))  # a ruined table
    report = export(hashed, tmp_path, "intents-1")
    assert report.table_bits == 32
    assert report.agreement_with_torch >= 0.97


def test_a_graph_that_answers_something_else_is_refused(hashed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "predict", lambda *of: -predict(*of))
    with pytest.raises(ModelError, match="intents-1: the exported graph gives"):
        export(hashed, tmp_path, "intents-1")


def test_a_table_of_int8_is_close_and_keeps_zeros() -> None:
    torch.manual_seed(0)
    table = torch.randn(50, 8) * torch.logspace(-3, 3, 50).unsqueeze(1)
    table[0] = 0
    rows = torch.arange(50).unsqueeze(0)
    difference = (Int8Rows(table)(rows)[0] - table).abs()
    assert (difference <= table.abs().amax(dim=1, keepdim=True) / 250).all()
    assert not Int8Rows(table)(rows)[0, 0].any()


def test_a_killed_encoder_run_ends_as_if_it_had_not_been(cut, tmp_path) -> None:
    with pytest.raises(Killed):
        learn(CUT, tmp_path, kill_after=1)
    resumed = learn(CUT, tmp_path)
    one, two = cut.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert cut.temperature == resumed.temperature


def test_padding_does_not_change_an_encoder_s_answer(cut) -> None:
    featuriser = Featuriser(cut.spec, cut.tokenizer)
    short, long = (featuriser.ids(prepare(text)) for text in ("refund", "refund " * 20))
    alone, together = predict(cut.module, [short], True), predict(cut.module, [short, long], True)
    assert alone[0] == pytest.approx(together[0], abs=1e-4)


def test_more_layers_than_the_encoder_has_are_refused() -> None:
    assert kept_layers(6, 3) == (0, 1, 2)
    with pytest.raises(ModelError, match="6 layers"):
        kept_layers(6, 7)
