"""MLflow on SQLite: a student's run, version and alias, once each, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from stillhouse.events import ArtefactRef, Condition, DatasetRef, StudentEvaluated, StudentTrained
from stillhouse.registry import log_evaluation, log_training_run, model_name, register_student, set_alias

CURVES = [{"epoch": i, "train_loss": 1.0 / i, "select_agreement": 0.5 + i / 10, "phase": "x"} for i in (1, 2, 3)]
PARAMETERS = {"architecture": "hashed_ngrams", "dim": 64, "learning_rate": None}


def student(name: str = "intents-hashed-1", **changes: Any) -> StudentTrained:
    fields: dict[str, Any] = {
        "id": f"event-{name}",
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "task": "intents",
        "student_id": name,
        "job_id": f"job-{name}",
        "architecture": "hashed_ngrams",
        "rung": 0,
        "artefact": ArtefactRef(uri=f"file:///artefacts/{name}", sha256="a" * 64, size=9),
        "dataset": DatasetRef(
            version="d" * 64, uri="file:///d.parquet", n_train=3, n_select=1, cutoff=datetime(2026, 1, 1, tzinfo=UTC)
        ),
        "teacher_version": "teacher-1",
        "metrics": {"select_agreement": 0.8},
        "cpu_seconds": 12.5,
    }
    return StudentTrained.model_validate(fields | changes)


def client(home):
    from mlflow import MlflowClient

    uri = f"sqlite:///{home / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def logged(home, trained: StudentTrained) -> str:
    return log_training_run(home, student=trained, parameters=PARAMETERS, curves=CURVES)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    # One database for the module: making its tables takes seconds.
    return tmp_path_factory.mktemp("home")


def test_a_run_holds_parameters_curves_and_lineage(home) -> None:
    run = client(home).get_run(logged(home, student("one")))
    assert run.info.status == "FINISHED"
    assert run.data.params == {"architecture": "hashed_ngrams", "dim": "64", "learning_rate": "None"}
    assert run.data.metrics["train_loss"] == pytest.approx(1 / 3)
    assert run.data.metrics["student.select_agreement"] == 0.8
    assert run.data.metrics["cpu_seconds.total"] == 12.5
    assert run.data.tags["stillhouse.dataset_version"] == "d" * 64
    assert run.data.tags["stillhouse.artefact_sha256"] == "a" * 64
    assert run.data.tags["stillhouse.teacher_version"] == "teacher-1"
    assert run.data.tags["stillhouse.job_id"] == "job-one"
    history = client(home).get_metric_history(run.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert list((home / "mlflow" / "default~intents").rglob("student.json"))


def test_the_same_student_has_one_run_and_one_version(home) -> None:
    trained = student("two")
    runs = {logged(home, trained), logged(home, trained)}
    assert len(runs) == 1
    (run_id,) = runs
    versions = {register_student(home, student=trained, run_id=run_id) for _ in range(2)}
    assert len(versions) == 1
    (version,) = versions
    found = client(home).get_model_version(model_name("default/intents"), version)
    assert (found.run_id, found.source) == (run_id, "file:///artefacts/two")
    assert found.tags["stillhouse.artefact_sha256"] == "a" * 64


def test_a_run_that_was_interrupted_is_finished(home) -> None:
    trained = student("three")
    run_id = logged(home, trained)
    client(home).update_run(run_id, status="RUNNING")
    assert logged(home, trained) == run_id
    assert client(home).get_run(run_id).info.status == "FINISHED"
    assert len(client(home).get_metric_history(run_id, "train_loss")) == 3


def test_an_evaluation_is_a_run_of_its_own_with_bounds_and_report(home, tmp_path) -> None:
    condition = Condition(name="recall of a/b (rare)", verdict="passed", estimate=0.9, lower=0.85, upper=0.95, n=60)
    evaluated = StudentEvaluated(
        id="evaluation-1",
        task="intents",
        student_id="intents-hashed-1",
        n=60,
        metrics={"agreement": 0.97},
        dataset_version="d" * 64,
        verdict="passed",
        conditions=[condition],
    )
    report = tmp_path / "offline.html"
    report.write_text("<html></html>")
    trained = log_training_run(home, student=student(), parameters=PARAMETERS, curves=CURVES)
    run_id = log_evaluation(home, evaluated=evaluated, report=report)
    assert log_evaluation(home, evaluated=evaluated, report=report) == run_id
    assert log_training_run(home, student=student(), parameters=PARAMETERS, curves=CURVES) == trained != run_id
    run = client(home).get_run(run_id)
    assert run.data.metrics["condition.recall of a/b _rare_.lower"] == 0.85
    assert (run.data.params["verdict"], run.info.status) == ("passed", "FINISHED")
    assert {item.path for item in client(home).list_artifacts(run_id)} == {"evaluation.json", "offline.html"}


def test_an_alias_moves_from_one_student_to_the_next(home) -> None:
    versions = {}
    for name in ("four", "five"):
        trained = student(name)
        versions[name] = register_student(home, student=trained, run_id=logged(home, trained))
    name = model_name("default/intents")
    set_alias(home, "four", "champion")
    set_alias(home, "five", "challenger")
    assert str(client(home).get_model_version_by_alias(name, "champion").version) == versions["four"]
    set_alias(home, "five", "champion")
    assert str(client(home).get_model_version_by_alias(name, "champion").version) == versions["five"]


def test_unknown_students_and_aliases_are_named(home) -> None:
    with pytest.raises(LookupError, match=r"No student 'nobody' in .*mlflow.db: register it first"):
        set_alias(home, "nobody", "champion")
    with pytest.raises(ValueError, match="'king' is no alias of a student: use champion or challenger"):
        set_alias(home, "four", "king")  # type: ignore[arg-type]


def test_tasks_that_differ_have_models_that_differ() -> None:
    assert len({model_name(key) for key in ("a.b/c", "a/b.c", "a-b/c", "a/b-c", "a_b/c", "a/b_c")}) == 6


CHILD = """
import sys
from pathlib import Path
import socket
def refuse(*_args, **_more): raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import stillhouse.registry
assert "mlflow" not in sys.modules
from tests.integration.registry.test_students import logged, student
from stillhouse.registry import register_student, set_alias
home, trained = Path(sys.argv[1]), student("both")
run_id = logged(home, trained)
version = register_student(home, student=trained, run_id=run_id)
set_alias(home, "both", "champion")
from mlflow.telemetry.utils import is_telemetry_disabled
assert is_telemetry_disabled()
print(run_id, version)
"""


def test_two_processes_on_a_fresh_home_agree_and_ask_no_network(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_CURRENT_TEST")}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "new home")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    said = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], said[0][1] + said[1][1]
    assert said[0][0].split() == said[1][0].split() != []
