"""Replicas with a stand-in for vLLM, and what a replica leaves of processes."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stillhouse.models.vllm.replica_main import MARK


@pytest.fixture
def checkpoint(tmp_path) -> Callable[..., Path]:
    """Makes a folder that looks like a checkpoint; its keywords tell the stand-in what to do."""

    def make(**fake: object) -> Path:
        folder = tmp_path / "checkpoint"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"fake": fake}))
        (folder / "model.safetensors").write_bytes(b"0" * 1000)
        return folder

    return make


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch) -> None:
    """The serving environment's python is a script that starts the stand-in, whatever module it is told."""
    script = tmp_path / "python"
    stand_in = Path(__file__).with_name("fake_vllm.py")
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(stand_in))} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("STILLHOUSE_SERVING_PYTHON", str(script))


def processes_of(home: Path, student_id: str) -> set[int]:
    """Every living process of a replica: its supervisor, and what carries its mark."""
    replica = home.absolute() / "replicas" / student_id
    mark, job = f"{MARK}={replica}".encode(), str(replica / "job.json").encode()
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if mark in environment.split(b"\0") or job in command.split(b"\0"):
            found.add(int(name))
    return found


def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for something; fails where it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
