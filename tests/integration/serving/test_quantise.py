"""The quantising job as a process: its reasons, its end with its starter, and no half-written checkpoint."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.distill.compression.quantise import quantise
from stillhouse.models.port import ModelError
from tests.integration.serving.conftest import until

TALK = [[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]]


@pytest.fixture
def torch(tmp_path, monkeypatch) -> Path:
    """The quantising environment's python finds this file for torch, the first thing that the job imports."""
    stand_in = tmp_path / "packages" / "torch.py"
    stand_in.parent.mkdir()
    script = tmp_path / "python"
    packages, python = shlex.quote(str(stand_in.parent)), shlex.quote(sys.executable)
    script.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {python} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("STILLHOUSE_QUANTISING_PYTHON", str(script))
    return stand_in


def test_a_failure_is_its_reason(torch, checkpoint, tmp_path) -> None:
    torch.write_text("raise ValueError('weights of\\nno use')\n")
    lines: list[str] = []
    with pytest.raises(ModelError, match=r"w8a8: quantising failed: ValueError: weights of no use$"):
        quantise(checkpoint(), tmp_path / "out", "w8a8", TALK, lines.append)
    assert any("Traceback" in line for line in lines)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*"))


def test_a_killed_job_says_memory(torch, checkpoint, tmp_path) -> None:
    torch.write_text("import os; os.kill(os.getpid(), 9)\n")
    with pytest.raises(ModelError, match="for want of memory"):
        quantise(checkpoint(), tmp_path / "out", "fp8", [])


def test_a_job_ends_with_its_starter(torch, checkpoint, tmp_path) -> None:
    pid_file = tmp_path / "pid"
    torch.write_text(f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)\n")
    code = (
        "import sys; from pathlib import Path; from stillhouse.distill.compression.quantise import quantise\n"
        "quantise(Path(sys.argv[1]), Path(sys.argv[2]), 'fp8', [])\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(checkpoint()), str(tmp_path / "out")])
    until(lambda: pid_file.exists() and pid_file.read_text())
    starter.kill()
    starter.wait()
    until(lambda: not Path(f"/proc/{pid_file.read_text()}").exists(), 20)


def test_what_is_written_stays(checkpoint, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="written once"):
        quantise(checkpoint(), tmp_path / "out", "fp8", [])
