"""Real exporters, where their environments were made: the same labels as torch, on every text."""

from __future__ import annotations

import shutil

import pytest

from stillhouse.distill.export import export
from stillhouse.distill.targets.exporting import export_for
from stillhouse.distill.targets.program import program_path, save_program
from stillhouse.distill.targets.web_runtime import ENTRY, VERSION
from stillhouse.distill.training import train
from stillhouse.environments.environment import exists, root
from stillhouse.models.vllm.spec import weights_bytes
from stillhouse.tasks import StudentCandidate
from tests.unit.distill.toy import LABELS, texts

ASKED = [one.text for one in texts(60, seed=5)] + [""]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    folder, checkpoints = home / "artefacts" / "cut", home / "checkpoints"
    folder.mkdir(parents=True)
    checkpoints.mkdir()
    candidate = StudentCandidate(architecture="cut_encoder", layers=2, epochs=2, batch_size=16, learning_rate=1e-3)
    trained = train(
        candidate, LABELS, texts(160), texts(60, seed=1), on_progress=lambda _: None, checkpoint_dir=checkpoints, seed=0
    )
    export(trained, folder, "cut")
    save_program(trained, program_path(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("target", "suffix"), [("litert", ".tflite"), ("executorch", ".pte")])
def test_devices_answer_as_torch_does(artefact, tmp_path, target, suffix) -> None:
    if not exists(target):
        pytest.skip(f"no environment {target}; `stillhouse env make {target}` makes it")
    report = export_for(target, artefact, ASKED, tmp_path, length=32)
    assert report.agreement_with_torch == 1.0
    assert report.max_abs_logit_difference is not None
    assert report.max_abs_logit_difference < 0.3
    assert report.file.endswith(suffix)
    assert report.bytes < 60e6
    assert "Not verified" in report.not_verified
    assert [path.name for path in tmp_path.iterdir()] == [f"cut-int8{suffix}"]


@pytest.mark.slow
def test_core_ml_is_converted_and_says_that_it_was_not_run(artefact, tmp_path) -> None:
    if not exists("coreml"):
        pytest.skip("no environment coreml; `stillhouse env make coreml` makes it")
    report = export_for("coreml", artefact, ASKED, tmp_path)
    assert (report.agreement_with_torch, report.p50_ms, report.n_compared) == (None, None, 0)
    assert "nothing was run" in report.not_verified
    assert report.bytes < 20e6
    assert {path.name for path in tmp_path.iterdir()} == {"cut-int8.mlpackage", "inputs.npz", "expected.npy"}


@pytest.mark.slow
def test_a_browsers_runtime_answers_as_torch_does(artefact, tmp_path) -> None:
    if shutil.which("node") is None or not (root() / f"web-{VERSION}" / ENTRY).is_file():
        pytest.skip("onnxruntime-web was not installed by an export to the target web")
    report = export_for("web", artefact, ASKED, tmp_path)
    assert report.agreement_with_torch == 1.0
    assert report.p50_ms is not None


@pytest.mark.slow
def test_vllm_answers_as_torch_does(artefact, tmp_path) -> None:
    if not exists("serving"):
        pytest.skip("no environment serving; `stillhouse env make serving` makes it")
    report = export_for("vllm", artefact, [*ASKED, "refund money " * 200], tmp_path)
    assert report.verified, report.verdict
    assert report.agreement_with_torch == 1.0
    assert report.max_abs_logit_difference is not None
    assert report.max_abs_logit_difference < 1e-3, "float32, texts and truncation included"
    assert "GPUs" in report.not_verified
    assert [path.name for path in tmp_path.iterdir()] == ["cut-vllm"]
    assert weights_bytes(tmp_path / "cut-vllm") > 10e6, "a folder that replicas serve: safetensors alone"
