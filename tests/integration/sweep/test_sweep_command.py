"""`stillhouse sweep` on a small file: the front, resuming, the limits of time and answers, and bad input."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.distill import sweep
from stillhouse.models.artefact import verify
from tests.unit.distill.toy import texts


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path]:
    """A home, and a file of texts with a teacher's answers."""
    folder = tmp_path_factory.mktemp("sweep")
    rows = [{"text": one.text, "teacher": one.label, "distribution": one.distribution} for one in texts(400)]
    (folder / "toy.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder / "home", folder / "toy.jsonl"


def invoke(world: tuple[Path, Path], *arguments: object):
    home, data = world
    options = ("--data", data, "--home", home, "--architectures", "hashed_ngrams", "--epochs", 3, "--json")
    return CliRunner().invoke(app, ["sweep", *map(str, (*options, *arguments))])


@pytest.mark.slow
def test_a_sweep_finds_a_front_goes_on_where_it_was_and_logs_every_candidate(world) -> None:
    home, _ = world
    first = invoke(world, "--trials", 2, "--teacher-calls", 120)
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert len(found["trials"]) == 2
    again = json.loads(invoke(world, "--trials", 3, "--teacher-calls", 120).stdout)
    assert again["sweep"] == found["sweep"]
    assert [trial["number"] for trial in again["trials"]] == [0, 1, 2]
    assert [trial["candidate"] for trial in again["trials"][:2]] == [trial["candidate"] for trial in found["trials"]]
    for trial in again["trials"]:
        assert trial["failed"] is None
        assert trial["answers"] == 120
        assert 0.0 <= trial["agreement"] <= 1.0
        artefact = Path(again["folder"]) / str(trial["number"]) / "artefact"
        assert artefact.exists() == trial["on_front"]
        if trial["on_front"]:
            agreement, low, high = trial["test"]
            assert low <= agreement <= high
            assert verify(artefact)
    front = [trial for trial in again["trials"] if trial["on_front"]]
    assert max(trial["agreement"] for trial in front) == max(trial["agreement"] for trial in again["trials"])

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(f"sweep~{again['sweep']}")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["stillhouse.sweep_trial"] for run in runs} == {"0", "1", "2"}
    assert all("agreement" in run.data.metrics for run in runs)


@pytest.mark.slow
def test_a_trial_that_overruns_the_time_is_cut_and_said_to_have_failed(world, monkeypatch) -> None:
    # A clock that goes on by a second whenever it is looked at: 3 seconds are over in the second epoch.
    clock = SimpleNamespace(monotonic=itertools.count(0.0, 1.0).__next__, process_time=time.process_time)
    monkeypatch.setattr(sweep, "time", clock)
    done = invoke(world, "--minutes", 0.05, "--epochs", 500, "--name", "short")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [trial["failed"] for trial in found["trials"]] == ["the time was over"]
    assert found["front"] == []
    again = invoke(world, "--minutes", 0.05, "--epochs", 500, "--name", "short")
    assert json.loads(again.stdout)["trials"] == found["trials"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--architectures", "oracle"), "no architecture is called 'oracle'"),
        (("a-task",), "one of the two"),
        (("--data", "nowhere.jsonl"), "no such file"),
    ],
)
def test_bad_input_gets_a_sentence(world, arguments, why) -> None:
    done = invoke(world, *arguments)
    assert done.exit_code == 1
    assert why in done.stderr


def test_too_few_texts_get_a_sentence(world, tmp_path) -> None:
    (tmp_path / "few.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}')
    done = invoke(world, "--data", tmp_path / "few.jsonl")
    assert done.exit_code == 1
    assert "takes 120 different texts" in done.stderr
