"""Peers, each in an environment of its own: made on demand under `.stillhouse/bench/<peer>/`, from released packages.

A peer's program (`<peer>_*.py` in this folder) knows nothing of Stillhouse: it reads a job as JSON from standard input
and writes its result as JSON to the file that the job names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tests.benchmarks.meta import ROOT

HOME = ROOT / ".stillhouse" / "bench"
MARKER = ".installed"


class PeerFailed(Exception):
    """A peer could not be installed or did not run; the message says which and why."""


def environment(peer: str, requirements: tuple[str, ...]) -> Path:
    """The Python of `peer`'s environment, made and filled first where that was not done yet. Raises `PeerFailed`."""
    folder = HOME / peer
    python = folder / "bin" / "python"
    wanted = "\n".join(requirements)
    marker = folder / MARKER
    if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {peer}: {', '.join(requirements)}", file=sys.stderr)
    if not python.exists():
        venv.create(folder, with_pip=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise PeerFailed(f"{peer} cannot be installed: {lines[-1][:300]}")
    marker.write_text(wanted, encoding="utf-8")
    return python


def run(peer: str, requirements: tuple[str, ...], program: str, job: dict[str, Any], timeout_s: float) -> Any:
    """The result of `program` (a file of this folder) for `job`, in the peer's environment. Raises `PeerFailed`.

    One thread, as for every system that is compared by CPU time.
    """
    python = environment(peer, requirements)
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        try:
            done = subprocess.run(
                [str(python), str(Path(__file__).parent / program)],
                input=json.dumps(job | {"result": str(result), "scratch": scratch}),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=_surroundings(),
                cwd=scratch,
            )
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"{peer} took longer than {timeout_s:g} s") from None
        if done.returncode != 0 or not result.exists():
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise PeerFailed(f"{peer} failed: {lines[-1][:300]}")
        return json.loads(result.read_text(encoding="utf-8"))


class Asked:
    """A peer's program that goes on answering lines; a context manager, which ends it."""

    def __init__(self, peer: str, requirements: tuple[str, ...], program: str, *arguments: str) -> None:
        """Start it. Raises `PeerFailed`."""
        python = environment(peer, requirements)
        self._peer = peer
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).parent / program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_surroundings(),
        )

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def __call__(self, line: Any) -> Any:
        """What it says to `line`, both as JSON. Raises `PeerFailed`."""
        asked, told = self._process.stdin, self._process.stdout
        assert asked is not None
        assert told is not None
        try:
            asked.write(json.dumps(line) + "\n")
            asked.flush()
            said = told.readline()
        except OSError:
            said = ""
        if not said:
            raise PeerFailed(f"{self._peer} ended without an answer")
        return json.loads(said)


def _surroundings() -> dict[str, str]:
    """The environment variables of a peer: one thread, no hub, nothing of ours."""
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | one | quiet
