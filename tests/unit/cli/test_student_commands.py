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
