"""What an export compares, and how it fails; real exporters are run in tests/integration/distill."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from stillhouse.distill.targets import exporting, job
from stillhouse.distill.targets.exporting import TARGETS, _padded, export_for
from stillhouse.distill.targets.program import load_program, program_path
from stillhouse.distill.training import predict
from stillhouse.models.features import Featuriser, prepare
from stillhouse.models.port import ModelError
from tests.unit.distill.toy import kept_student, texts


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with one student: its artefact and its program, as the trainer keeps them; and its trained module."""
    return kept_student(tmp_path_factory.mktemp("home"))


def test_the_program_answers_as_the_module_at_any_length(home) -> None:
    artefact, trained = home
    answer = load_program(program_path(artefact))
    featuriser = Featuriser(trained.spec)
    for text in ("order", texts(1, seed=9)[0].text, "refund money " * 40):
        ids = featuriser.ids(prepare(text))
        np.testing.assert_allclose(answer([ids[None]]), predict(trained.module, [ids], False)[0], atol=1e-6)


def test_the_graph_that_serves_is_compared_with_torch(home, tmp_path) -> None:
    artefact, _ = home
    asked = [one.text for one in texts(50, seed=5)] + [""]
    report = export_for("onnx", artefact, asked, tmp_path)
    assert report.n_compared == 51
    assert report.agreement_with_torch == 1.0
    assert report.max_abs_logit_difference is not None
    assert 0 < report.max_abs_logit_difference < 0.1
    assert (tmp_path / "toy.onnx").read_bytes() == (artefact / "model.onnx").read_bytes()
    assert report.bytes == (artefact / "model.onnx").stat().st_size


def test_a_report_says_whether_it_is_verified_and_why(home, tmp_path, monkeypatch) -> None:
    artefact, _ = home
    asked = [one.text for one in texts(50, seed=5)]
    report = export_for("onnx", artefact, asked, tmp_path)
    assert report.verified
    assert report.verdict == "gives torch's label to 100.0% of 50 texts, at least the 97.0% asked for"
    answers = exporting.load_program(program_path(artefact))
    turned = iter([-1.0] * 10 + [1.0] * 40)  # torch says the opposite of ten texts
    monkeypatch.setattr(exporting, "load_program", lambda path: lambda row: answers(row) * next(turned))
    low = export_for("onnx", artefact, asked, tmp_path, least_agreement=0.81)
    assert not low.verified
    assert low.verdict == "gives torch's label to 80.0% of 50 texts, under the 81.0% asked for"
    assert (tmp_path / "toy.onnx").is_file(), "what is not verified is kept"
    assert exporting._verdict(None, 0.97, 50) == "nothing was run on this machine"
    with pytest.raises(ModelError, match=r"A least agreement of 1\.5 is no share"):
        export_for("onnx", artefact, asked, tmp_path, least_agreement=1.5)


def test_vllm_is_refused_to_what_is_not_cut_from_the_encoder(home, tmp_path) -> None:
    artefact, _ = home
    with pytest.raises(ModelError, match="cut from the encoder alone, and toy is hashed_ngrams"):
        export_for("vllm", artefact, ["order"], tmp_path)


def test_a_missing_program_and_no_texts_are_one_sentence(home, tmp_path) -> None:
    artefact, _ = home
    with pytest.raises(ModelError, match="no trained module is kept there"):
        export_for("litert", artefact, ["a"], tmp_path, program=tmp_path / "none.pt2")
    (tmp_path / "bad.pt2").write_bytes(b"no archive")
    with pytest.raises(ModelError, match=r"not a usable torch\.export program"):
        export_for("litert", artefact, ["a"], tmp_path, program=tmp_path / "bad.pt2")
    with pytest.raises(ModelError, match="--data"):
        export_for("onnx", artefact, [], tmp_path)
    with pytest.raises(ModelError, match="length of 1"):
        export_for("litert", artefact, ["a"], tmp_path, length=1)


def test_an_exporter_that_fails_says_why_and_leaves_nothing(home, tmp_path, monkeypatch) -> None:
    artefact, _ = home
    monkeypatch.setenv("STILLHOUSE_COREML_PYTHON", sys.executable)  # an environment without coremltools
    with pytest.raises(ModelError, match="coreml: convert failed: ModuleNotFoundError: No module named 'coremltools'"):
        export_for("coreml", artefact, ["order"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_job_runs_each_input_and_keeps_its_answers(tmp_path) -> None:
    class Stands:
        @staticmethod
        def load(path):
            return lambda inputs: np.array([inputs[0].sum(), 1.0])

    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, count=np.array(2), ids_0=np.array([[1, 2]]), ids_1=np.array([[5]]))
    asked = {"inputs": str(inputs), "names": ["ids"], "out": "m", "answers": str(tmp_path / "answers.npy")}
    done = job.run(Stands, asked)
    assert np.load(tmp_path / "answers.npy").tolist() == [[3.0, 1.0], [5.0, 1.0]]
    assert json.loads(json.dumps(done)).keys() == {"p50_ms", "p95_ms", "memory_bytes"}


def test_padding_cuts_and_fills() -> None:
    assert _padded(np.array([[7, 8, 9]]), 2).tolist() == [[7, 8]]
    assert _padded(np.array([[7]]), 3).tolist() == [[7, 0, 0]]
    assert set(TARGETS) == {"onnx", "litert", "coreml", "executorch", "web", "vllm"}
