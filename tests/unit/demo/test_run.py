"""The demo's folder: emptied where it is the demo's, and nobody else's."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.demo.run import prepare_home
from stillhouse.embedded.broker import EmbeddedError
from stillhouse.embedded.state import lock


def test_a_new_folder_is_made_and_an_old_one_emptied_but_for_its_report(tmp_path) -> None:
    home = tmp_path / "a" / "demo"
    prepare_home(home)
    for name in ("report.json", "report.html", "left.txt"):
        (home / name).write_text("x")
    for name in ("store", "encoders"):
        (home / name).mkdir()
        (home / name / "file").write_text("x")
    prepare_home(home)
    kept = [".stillhouse-demo", "encoders", "report.html", "report.json"]
    assert sorted(path.name for path in home.iterdir()) == kept
    assert (home / "encoders" / "file").exists()


def test_links_are_removed_and_what_they_name_is_not(tmp_path) -> None:
    home, other = tmp_path / "demo", tmp_path / "other"
    prepare_home(home)
    other.mkdir()
    (other / "precious").write_text("x")
    (home / "link").symlink_to(other)
    prepare_home(home)
    assert (other / "precious").exists()
    assert not (home / "link").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(EmbeddedError, match="holds things that the demo did not write"):
        prepare_home(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(EmbeddedError, match="not a folder"):
        prepare_home(tmp_path / "thesis.txt")


def test_a_folder_where_a_profile_runs_is_left_alone(tmp_path) -> None:
    home = tmp_path / "demo"
    prepare_home(home)
    with lock(home), pytest.raises(EmbeddedError, match="stillhouse down --home"):
        prepare_home(home)
    assert (home / "run").exists()


def test_bad_data_is_one_sentence_and_touches_nothing(tmp_path) -> None:
    (tmp_path / "m.jsonl").write_text('{"text": "a"}\n')
    home = tmp_path / "home"
    done = CliRunner().invoke(app, ["demo", "--data", str(tmp_path / "m.jsonl"), "--home", str(home)])
    assert done.exit_code == 1
    assert done.output == f"{tmp_path}/m.jsonl: line 1: label is missing; every row needs text and label.\n"
    assert not home.exists()
