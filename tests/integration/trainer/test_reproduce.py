"""A recorded student is trained again from its MLflow run alone, to the same bytes; what differs is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.trainer import lineage
from stillhouse.bus.jobs import read_json, write_json
from stillhouse.cli import app
from stillhouse.events import ArtefactRef, DatasetRef, StudentTrained
from stillhouse.registry import training_record
from stillhouse.registry.environment import differences, environment
from stillhouse.store import Store
from tests.integration.trainer.test_job_data import TASK, example, job
from tests.unit.trainer.tasks import T0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, StudentTrained]:
    """A home with one student, trained and logged as the trainer does it."""
    home = tmp_path_factory.mktemp("home")
    Store(home / "store").append_examples([example(number) for number in range(400)])
    folder, _ = job(home, TASK)
    subprocess.run([sys.executable, "-m", "services.trainer.job", str(folder)], check=True, timeout=300)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    student = StudentTrained(
        id="event-1",
        time=T0,
        tenant=TASK.tenant,
        task=TASK.name,
        student_id="s1",
        job_id="j",
        architecture="hashed_ngrams",
        rung=0,
        artefact=ArtefactRef.model_validate(result["artefact"]),
        dataset=DatasetRef.model_validate(result["dataset"]),
        teacher_version="t",
        metrics=result["metrics"],
        cpu_seconds=result["cpu_seconds"],
    )
    write_json(folder / "outcome.json", {"type": StudentTrained.TYPE, "event": student.model_dump(mode="json")})
    assert lineage.main(folder) == 0
    shutil.rmtree(folder)  # the run alone must do
    return home, student


def invoke(home: Path, *arguments: str):
    return CliRunner().invoke(app, ["train", "--home", str(home), "--json", *arguments])


def test_the_record_is_whole(trained) -> None:
    home, student = trained
    record = training_record(home, "s1")
    assert record.student == student
    assert record.job["student_id"] == "s1"
    assert record.environment["packages"]["torch"]
    assert differences(record.environment, environment()) == []
    with pytest.raises(LookupError, match="no run and no student 'nobody'"):
        training_record(home, "nobody")


def test_it_is_trained_again_to_the_same_bytes_and_nothing_of_the_platform_changes(trained) -> None:
    home, student = trained
    before = sorted(path for path in home.rglob("*") if path.is_file() and "mlflow" not in str(path))
    done = invoke(home, "--reproduce", "s1")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["bit_exact"] is True
    assert found["sha256"] == found["recorded_sha256"] == student.artefact.sha256
    assert found["changed"] == []
    after = {path for path in home.rglob("*") if path.is_file() and "mlflow" not in str(path)}
    assert all("reproductions" in str(path) for path in after - set(before))


def test_another_student_is_told_apart_with_how_far(trained) -> None:
    home, _ = trained
    record = training_record(home, "s1")
    changed = json.loads(json.dumps(record.job))
    changed["task"]["students"][0]["seed"] = 7
    (path,) = (home / "mlflow").rglob("job.json")
    path.write_text(json.dumps(changed))
    try:
        done = invoke(home, "--reproduce", record.run_id)
    finally:
        path.write_text(json.dumps(record.job))
    assert done.exit_code == 2, done.output
    found = json.loads(done.stdout)
    assert found["bit_exact"] is False
    assert "model.onnx" in found["files"]
    assert found["asked"] == 60
    assert 0.0 < found["agreement"] <= 1.0
    assert found["max_logit_difference"] > 0.0


def test_what_cannot_be_trained_again_gets_a_sentence(trained) -> None:
    home, student = trained
    assert "no run and no student 'x'" in invoke(home, "--reproduce", "x").stderr
    assert "Name the task" in invoke(home).stderr
    dataset = home / "datasets" / f"{student.dataset.version}.parquet"
    dataset.rename(dataset.with_suffix(".away"))
    try:
        done = invoke(home, "--reproduce", "s1")
    finally:
        dataset.with_suffix(".away").rename(dataset)
    assert done.exit_code == 1
    assert "is gone" in done.stderr
    assert read_json(home / "reproductions" / "none.json") is None
