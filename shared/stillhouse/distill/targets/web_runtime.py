"""ONNX Runtime Web from npm, in a folder of its own; Node runs its WebAssembly as a browser does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stillhouse.environments.environment import root
from stillhouse.files import locked
from stillhouse.models.port import ModelError

VERSION: Final = "1.30.0"
ENTRY: Final = Path("node_modules") / "onnxruntime-web" / "dist" / "ort.node.min.mjs"


def runtime(on_line: Callable[[str], None]) -> Path:
    """Its module for Node, installed first where it is absent (150 MB). Raises `ModelError`."""
    folder = root() / f"web-{VERSION}"
    if not (folder / ENTRY).is_file():
        for program in ("node", "npm"):
            if shutil.which(program) is None:
                raise ModelError(f"{program} is not installed; the target web needs Node 18 or later to be verified.")
        with locked(folder.with_suffix(".lock")):
            if not (folder / ENTRY).is_file():
                on_line(f"installing onnxruntime-web {VERSION}")
                folder.mkdir(parents=True, exist_ok=True)
                command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
                done = subprocess.run(
                    [*command, f"onnxruntime-web@{VERSION}"], stdin=subprocess.DEVNULL, capture_output=True, text=True
                )
                if done.returncode != 0:
                    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
                    raise ModelError(f"onnxruntime-web {VERSION} could not be installed: {said}")
    return folder / ENTRY
