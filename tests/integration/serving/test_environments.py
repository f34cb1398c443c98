"""Environments are made once, whole or not at all: real virtual environments with a wheel that the test writes."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.environments import environment
from stillhouse.environments.environment import COMPLETE, NAMES, exists, folder_of, make, python_of
from stillhouse.models.port import ModelError


def _wheel(folder: Path, name: str, version: str) -> None:
    files = {
        f"{name}.py": b"VALUE = 42\n",
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{name}-{version}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-{version}.dist-info/RECORD"
    lines = []
    for path, body in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(body)}\n")
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, body in files.items():
            wheel.writestr(path, body)


@pytest.fixture
def pins(tmp_path, monkeypatch) -> Path:
    """A list of one package, which only the test's folder has; nothing outside is asked."""
    _wheel(tmp_path / "wheels", "tinypart", "1.5")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("STILLHOUSE_ENVIRONMENTS", str(tmp_path / "environments"))
    monkeypatch.setattr(environment, "NEEDED_BYTES", 1)
    pins = tmp_path / "list.txt"
    pins.write_text("tinypart==1.5\n")
    monkeypatch.setattr(environment, "list_of", lambda name: pins)
    return pins


def test_it_is_made_at_first_use_and_found_after(pins) -> None:
    assert not exists("serving")
    lines: list[str] = []
    python = python_of("serving", lines.append)
    assert exists("serving")
    assert any("tinypart-1.5" in line for line in lines)
    said = subprocess.run(
        [python, "-c", "import tinypart, sys; print(tinypart.VALUE, sys.prefix)"],
        env=environment.clean_environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["42", str(folder_of("serving"))]
    assert list(folder_of("serving").glob("lib/*/site-packages/__pycache__/tinypart*.pyc")), "compiled at the install"
    lines.clear()
    assert python_of("serving", lines.append) == python
    assert not lines


def test_a_half_made_one_is_made_again(pins) -> None:
    folder = folder_of("serving")
    (folder / "bin").mkdir(parents=True)
    (folder / "rest").write_text("of an install that was killed")
    assert not exists("serving")
    assert python_of("serving").is_file()
    assert not (folder / "rest").exists()


def test_a_failed_install_says_pips_reason_and_leaves_no_environment(pins) -> None:
    pins.write_text("tinypart==9.9\n")
    with pytest.raises(ModelError, match=r"tinypart==9\.9") as refused:
        python_of("serving")
    assert "\n" not in str(refused.value)
    assert not exists("serving")
    pins.write_text("tinypart==1.5\n")
    assert python_of("serving").is_file()


def test_two_at_once_make_it_once(pins) -> None:
    folder, said = folder_of("quantising"), [list[str](), list[str]()]
    both = [threading.Thread(target=make, args=(folder, pins, lines.append)) for lines in said]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert (folder / COMPLETE).exists()
    installed = [lines for lines in said if any("Successfully installed" in line for line in lines)]
    assert len(installed) == 1
    assert any("another process" in line for lines in said for line in lines)


def test_the_commands_say_what_is_there(pins) -> None:
    runner = CliRunner()
    rows = json.loads(runner.invoke(app, ["env", "list", "--json"]).stdout)
    assert [(row["name"], row["state"]) for row in rows] == [(name, "absent") for name in NAMES]
    made = runner.invoke(app, ["env", "make", "serving"])
    assert made.exit_code == 0, made.output
    assert "downloaded" in made.output
    assert "is there" in runner.invoke(app, ["env", "make", "serving"]).output
    pins.write_text("tinypart==1.5\n\n")  # another list
    rows = json.loads(runner.invoke(app, ["env", "list", "--json"]).stdout)
    assert [row["state"] for row in rows] == ["absent"] * len(NAMES) + ["old"]
    assert runner.invoke(app, ["env", "make", "kitchen"]).exit_code == 1
