"""What `analyze`, `design` and `export` say where they are given nothing that they can use."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["analyze", "nowhere"], "nowhere: no model; name `minilm`"),
        (["export", "s", "--target", "phone", "--data", "d"], "no target 'phone'; targets are onnx, litert, coreml"),
        (["export", "s", "--target", "onnx", "--data", "d", "--precision", "int4"], "choose int8 or fp32"),
        (["export", "nobody", "--target", "onnx", "--data", "d"], "no student 'nobody'"),
        (["design", "--teacher", "nowhere"], "nowhere: no model"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert said in done.output
    assert done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "holds no rows"), ('{"label": "a"}\n', "neither `text` nor `input`"), ("{", "cannot be read")],
)
def test_data_without_texts_is_refused(content, said, tmp_path) -> None:
    (tmp_path / "student").mkdir()
    data = tmp_path / "data.jsonl"
    data.write_text(content, encoding="utf-8")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "student"), "--target", "onnx", "--data", str(data)])
    assert done.exit_code == 1
    assert said in done.output


def test_an_export_is_shown_is_json_and_ends_with_its_verdict(tmp_path, monkeypatch) -> None:
    from stillhouse.distill.export import LEAST_AGREEMENT
    from stillhouse.distill.targets import exporting

    asked = []

    def export_for(target, folder, texts, out, *, least_agreement, **options):
        asked.append((target, texts, least_agreement))
        agreement = None if target == "coreml" else 0.96
        return exporting.TargetReport(
            target=target,
            precision="int8",
            file=str(out / "student.file"),
            bytes=1_500_000,
            exporter="exporter 1",
            convert_seconds=1.0,
            n_compared=0 if agreement is None else 2,
            n_truncated=0,
            max_abs_logit_difference=agreement,
            agreement_with_torch=agreement,
            p50_ms=agreement,
            p95_ms=agreement,
            memory_bytes=None,
            not_verified=exporting.NOT_VERIFIED[target],
            verified=agreement is not None and agreement >= least_agreement,
            verdict=exporting._verdict(agreement, least_agreement, 2),
        )

    monkeypatch.setattr(exporting, "export_for", export_for)
    (tmp_path / "student").mkdir()
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n{"input": "b"}\n', encoding="utf-8")
    command = ["export", str(tmp_path / "student"), "--data", str(tmp_path / "texts.jsonl"), "--target"]
    low = CliRunner().invoke(app, [*command, "litert"])
    assert low.exit_code == 2
    assert "NOT VERIFIED: gives torch's label to 96.0% of 2 texts, under the 97.0% asked for" in low.output
    assert "exported/student.file: 1.5 MB" in low.output, "the file is kept and named"
    assert asked == [("litert", ["a", "b"], LEAST_AGREEMENT)]
    enough = CliRunner().invoke(app, [*command, "litert", "--least-agreement", "0.95"])
    assert enough.exit_code == 0
    assert "\nverified: gives torch's label" in enough.output
    as_json = CliRunner().invoke(app, [*command, "litert", "--json"])
    assert as_json.exit_code == 2
    found = json.loads(as_json.output)
    assert (found["verified"], found["verdict"][:12]) == (False, "gives torch'")
    not_run = CliRunner().invoke(app, [*command, "coreml"])
    assert not_run.exit_code == 0
    assert "NOT VERIFIED: nothing was run on this machine" in not_run.output


def test_an_analysis_is_shown_and_is_json(tmp_path) -> None:
    from tests.unit.distill.architecture.test_counting import SMALL, bert

    bert(SMALL).save_pretrained(tmp_path / "model")
    asked = ["analyze", str(tmp_path / "model"), "--length", "8", "--batch", "1", "--repeats", "1"]
    shown = CliRunner().invoke(app, [*asked, "--plot", str(tmp_path / "plot.html")])
    assert shown.exit_code == 0, shown.output
    assert "transformer.encoder.layer.1.attention" in shown.output
    assert "of the time is" in shown.output
    assert "<svg" in (tmp_path / "plot.html").read_text(encoding="utf-8")
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert found["layers"] == 2
    assert [one["batch"] for one in found["passes"]] == [1]
