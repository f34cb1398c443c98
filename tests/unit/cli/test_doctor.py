"""What the doctor finds without a platform, and what it says to do."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app, checks
from stillhouse.cli.checks import _lag_of, check_artefacts, check_disk, check_packages, check_teachers, pinned
from stillhouse.events import ArtefactRef, RouteChanged, StudentRoute
from stillhouse.models.artefact import write_manifest
from stillhouse.tasks import load_tasks

ROOT = Path(__file__).parents[3]
REQUIRES = ["redis<9,>=8", "Some_Thing>=1", 'torch==2.13.0; extra == "train"', "pytest>=9; extra == 'dev'"]

EXTRAS = {"train": "the trainer"}


def states(found) -> list[tuple[str, str]]:
    return [(one.what, one.state) for one in found]


def test_packages_as_tested_are_well(tmp_path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("# comment\nredis==8.1.0\nsome.thing==1.0  # why\ntorch==2.13.0\nunused==1\n")
    have = {"redis": "8.1.0", "some-thing": "1.0", "torch": "2.13.0+cpu"}
    (found,) = check_packages(pins, REQUIRES, have.get, EXTRAS)
    assert (found.state, found.said) == ("ok", "as tested together")


def test_a_missing_package_is_wrong_and_another_version_a_warning(tmp_path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("redis==8.1.0\n")
    found = check_packages(pins, REQUIRES, {"redis": "8.2.0"}.get, EXTRAS)
    assert states(found) == [("core", "wrong"), ("train", "warn"), ("versions", "warn")]
    assert "missing: some-thing" in found[0].said
    assert "redis 8.2.0 (tested: 8.1.0)" in found[2].said
    assert all("pip install --constraint deploy/constraints/core.txt" in one.mend for one in found)


def test_the_constraints_file_is_where_the_doctor_looks() -> None:
    assert pinned(ROOT).is_file()


def test_disk(tmp_path, monkeypatch) -> None:
    home = tmp_path / "not" / "yet"
    for free, state in ((10**8, "wrong"), (10**9, "warn"), (10**11, "ok")):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(1, 1, free))
        assert states(check_disk(home)) == [(str(home), state)]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert check_disk(home)[0].said == "cannot be written to"


@pytest.mark.parametrize(
    ("lag", "before", "members", "state"),
    [
        (None, None, 1, "ok"),
        (1000, 1000, 1, "ok"),
        (5000, 9000, 1, "warn"),
        (5000, 5000, 1, "wrong"),
        (0, 0, 0, "wrong"),
    ],
)
def test_lag_is_wrong_where_it_does_not_shrink_or_nobody_reads(lag, before, members, state) -> None:
    found = _lag_of("router.intake", lag, before, members)
    assert found.state == state
    assert bool(found.mend) == (state != "ok")


def test_an_artefact_that_is_not_what_was_gated_is_found(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    artefact = write_manifest(tmp_path)
    routes = {"acme/t": route(artefact)}
    assert states(check_artefacts(routes)) == [("s1 (live)", "ok")]
    (tmp_path / "model.onnx").write_bytes(b"changed")
    (found,) = check_artefacts(routes)
    assert found.state == "wrong"
    assert "stillhouse route teacher --task t --tenant acme" in found.mend
    (gone,) = check_artefacts({"acme/t": route(artefact.model_copy(update={"sha256": "0" * 64}))})
    assert gone.state == "wrong"


def route(artefact: ArtefactRef) -> RouteChanged:
    live = StudentRoute(
        student_id="s1",
        architecture="hashed_ngrams",
        artefact=artefact,
        threshold=0.8,
        since=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return RouteChanged(
        tenant="acme", task="t", version=1, stage="live", live=live, reason="r", changed_by="x", cause_id="c"
    )


def test_a_teacher_that_is_not_fitted_is_a_warning_and_a_seed_that_is_gone_is_wrong(tmp_path) -> None:
    shutil.copytree(ROOT / "deploy" / "tasks", tmp_path / "tasks")
    declared = load_tasks(tmp_path / "tasks")
    (found,) = check_teachers(declared, tmp_path / "home")
    assert (found.state, "teacher fit --task manga-support" in found.mend) == ("warn", True)
    (tmp_path / "tasks" / "manga-support.seed.jsonl").unlink()
    assert states(check_teachers(declared, tmp_path / "home")) == [("teacher of default/manga-support", "wrong")]


def test_without_broker_and_redis_all_else_is_still_looked_at(tmp_path, monkeypatch, free_tcp_port) -> None:
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{free_tcp_port}")
    monkeypatch.setenv("STILLHOUSE_REDIS__URL", f"redis://:secret@127.0.0.1:{free_tcp_port}/0")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "t.toml").write_text("[task")
    done = CliRunner().invoke(app, ["doctor", "--json", "--tasks", str(tmp_path / "bad")])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert not told["well"]
    assert "secret" not in done.stdout
    wrong = [(one["part"], one["what"]) for one in told["findings"] if one["state"] == "wrong"]
    assert wrong == [
        ("broker", f"127.0.0.1:{free_tcp_port}"),
        ("redis", f"redis://127.0.0.1:{free_tcp_port}/0"),
        ("models", "tasks"),
    ]
    assert {"disk", "packages"} <= {one["part"] for one in told["findings"]}
    shown = CliRunner().invoke(app, ["doctor", "--tasks", str(ROOT / "deploy" / "tasks")])
    assert shown.exit_code == 1
    assert "`stillhouse up` starts one" in shown.stdout


def test_where_no_models_run_the_teachers_are_not_looked_at(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checks, "TEACHER_MODULES", ("no_such_module",))
    (found,) = check_teachers(load_tasks(ROOT / "deploy" / "tasks"), tmp_path)
    assert (found.state, found.said) == ("warn", "not looked at: no_such_module not installed here")
