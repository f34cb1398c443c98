"""What `analyze`, `design` and `export` show, and what they say where they are given nothing that they can use."""

from __future__ import annotations

import gzip
import json

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.cli.labelled import read_texts
from stillhouse.distill import cut_encoder
from stillhouse.distill.architecture import cost_model, encoder_graph, loading, quality, small_students
from tests.unit.distill.architecture.test_design import CURVES, SMALL, TEACHER, TRUE, true_cost
from tests.unit.distill.toy import LABELS, kept_student, texts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["analyze", "nowhere"], "nowhere: no model; name `minilm`"),
        (["export", "s", "--target", "phone", "--data", "d"], "no target 'phone'; targets are onnx, litert, coreml"),
        (["export", "s", "--target", "onnx", "--data", "d", "--precision", "int4"], "choose int8 or fp32"),
        (["export", "nobody", "--target", "onnx", "--data", "d"], "no student 'nobody'"),
        (["design", "--teacher", "nowhere"], "nowhere: no model"),
        (["design", "--target", "vllm"], "There is no target 'vllm'"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert said in done.output
    assert done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.jsonl", "", "holds no rows"),
        ("data.jsonl", '{"label": "a"}\n', "line 1: needs text or input"),
        ("data.jsonl", "{", "line 1: not a JSON object"),
        ("data.csv", 'text\n"a', "not CSV"),
        ("data.txt", "a", "no .jsonl, .jsonl.gz, .csv file"),
    ],
)
@pytest.mark.parametrize("command", ["export", "design"])
def test_data_that_cannot_be_read_is_one_sentence(command, name, content, said, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loading, "shape_of", lambda folder: TEACHER)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "config.json").write_text("{}", encoding="utf-8")
    data = tmp_path / name
    data.write_text(content, encoding="utf-8")
    of = ["--teacher", str(tmp_path / "student")] if command == "design" else [str(tmp_path / "student")]
    done = CliRunner().invoke(app, [command, *of, "--target", "onnx", "--data", str(data)])
    assert done.exit_code == 1
    assert said in done.output
    assert done.output.count("\n") == 1


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """A home with the student `toy`: its artefact, and its program as the trainer keeps it."""
    return kept_student(tmp_path_factory.mktemp("home"))[0]


def as_files(folder, suffix):
    """20 texts with answers as one file, or as a folder of two."""
    rows = [{"text": row.text, "label": row.label} for row in texts(20, seed=4)]
    if suffix == "folder":
        folder.mkdir()
        for part, of_part in (("train", rows[:10]), ("test", rows[10:])):
            (folder / f"{part}.jsonl.gz").write_bytes(gzip.compress(lines(of_part).encode()))
        return folder
    path = folder.with_suffix(suffix)
    csv = "".join(f'"{row["text"]}",{row["label"]}\n' for row in rows)
    path.write_text(f"text,label\n{csv}" if suffix == ".csv" else lines(rows), encoding="utf-8")
    return path


def lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", "folder"])
def test_an_export_takes_every_kind_of_file_and_says_what_it_compared(suffix, artefact, tmp_path) -> None:
    data = as_files(tmp_path / "data", suffix)
    home, out = artefact.parents[1], tmp_path / "out"
    asked = ["export", "toy", "--target", "onnx", "--data", str(data), "--home", str(home), "--out", str(out)]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "agrees with torch on 100.0 % of 20 texts" in shown.output
    assert (out / "toy.onnx").read_bytes() == (artefact / "model.onnx").read_bytes()
    report = json.loads(CliRunner().invoke(app, [*asked, "--limit", "7", "--json"]).output)
    assert report["n_compared"] == 7
    assert report["agreement_with_torch"] == 1.0
    assert report["p50_ms"] > 0


def test_texts_of_a_folder_are_its_test_part_first(tmp_path) -> None:
    folder = as_files(tmp_path / "data", "folder")
    assert read_texts(folder, 10) == [row.text for row in texts(20, seed=4)[10:]]
    assert len(read_texts(folder, 100)) == 20


def test_a_students_graph_is_analysed_one_text_at_a_time(artefact) -> None:
    asked = ["analyze", str(artefact), "--length", "8", "--repeats", "3"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "as ONNX Runtime serves it" in shown.output
    assert "of the time is" in shown.output
    found = json.loads(CliRunner().invoke(app, [*asked, "--batch", "1", "--json"]).output)
    assert found["name"] == "toy"
    assert [(one["batch"], one["length"]) for one in found["passes"]] == [(1, 8)]
    assert found["bytes"] < (artefact / "model.onnx").stat().st_size
    assert sum(one["flops"] for one in found["share"].values()) == pytest.approx(1.0)
    (product,) = [one for one in found["parts"] if one["flops_per_token"]]
    assert product["kind"] == "linear"
    assert product["flops_per_token"] * 8 == pytest.approx(2 * 16 * len(LABELS))
    refused = CliRunner().invoke(app, [*asked, "--batch", "8"])
    assert refused.exit_code == 1
    assert "one text at a time" in refused.output


def test_a_design_is_shown_is_json_and_is_plotted(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loading, "folder_of", lambda name: tmp_path)
    monkeypatch.setattr(loading, "shape_of", lambda folder: TEACHER)
    monkeypatch.setattr(cut_encoder, "encoder_source", lambda: tmp_path)
    monkeypatch.setattr(cost_model, "calibrated", lambda on_shape: TRUE)
    monkeypatch.setattr(encoder_graph, "cost_of", true_cost)
    learnt_from = []
    monkeypatch.setattr(quality, "train_on_sample", lambda rows, *_, **__: learnt_from.append(rows) or CURVES)
    monkeypatch.setattr(small_students, "train_small", lambda rows, **_: [SMALL])
    data = tmp_path / "data"
    data.mkdir()
    for part, count in (("train", 120), ("test", 30)):
        rows = [{"text": row.text, "label": row.label} for row in texts(count, seed=count)]
        (data / f"{part}.jsonl").write_text(lines(rows), encoding="utf-8")
    asked = ["design", "--data", str(data), "--length", "8", "--plot", str(tmp_path / "plot.html")]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "recommended: 6 layers" in shown.output
    assert "smoothing 0.1" in shown.output, "labels alone: no objective that needs probabilities"
    assert "hashed n-grams" in (tmp_path / "plot.html").read_text(encoding="utf-8")
    assert len(learnt_from[0]) == 120, "the test part stays unseen"
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    small = next(one for one in found["candidates"] if one["architecture"] == "hashed_ngrams")
    assert small["shape"] is None
    assert small["on_front"]
    other = json.loads(CliRunner().invoke(app, [*asked, "--teacher", "elsewhere", "--json"]).output)
    assert {one["basis"] for one in other["candidates"] if not one["trainable"]} >= {"none", "published"}
    assert other["recommended"] == "minilm, 6 layers"


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
