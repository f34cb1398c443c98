"""Environments that are made on first use: `serving` (vLLM), `quantising` (LLM Compressor) and one for each exporter.

Their pins exclude each other's and those of the environment that we run in. Each is a virtual environment with exactly
the packages of the list beside this file, in a folder that is named by that list: another list is another environment.
Where a machine has its own (vLLM for its GPU, say), `STILLHOUSE_SERVING_PYTHON` (and so on) names that one's python,
and nothing is made.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, get_args

from stillhouse.models.port import ModelError

Name = Literal["serving", "quantising", "litert", "executorch", "coreml"]
OnLine = Callable[[str], None]

NAMES: Final[tuple[Name, ...]] = get_args(Name)
PURPOSE: Final[dict[Name, str]] = {
    "serving": "vLLM, which serves students that write",
    "quantising": "LLM Compressor, which makes them smaller",
    "litert": "LiteRT, which runs students on Android",
    "executorch": "ExecuTorch, which runs students on embedded devices",
    "coreml": "Core ML tools, which convert students for iOS",
}
NEEDED_BYTES: Final = 4_000_000_000  # on disk, while packages are unpacked
COMPLETE: Final = ".complete"


def python_of(name: Name, on_line: OnLine | None = None) -> Path:
    """The environment's python. Makes the environment where it is absent: that downloads, and takes minutes.

    `on_line` gets what pip says, line by line. Raises `ModelError`.
    """
    if (own := _own_python(name)) is not None:
        if not own.is_file():
            raise ModelError(f"{_variable(name)} names {own}, which is no file; name a python, or unset it.")
        return own
    folder = folder_of(name)
    if not (folder / COMPLETE).exists():
        make(folder, list_of(name), on_line or (lambda line: None))
    return folder / "bin" / "python"


def exists(name: Name) -> bool:
    """Whether the environment is there, whole."""
    own = _own_python(name)
    return own.is_file() if own is not None else (folder_of(name) / COMPLETE).exists()


def list_of(name: Name) -> Path:
    """The file that pins its packages."""
    return Path(__file__).with_name(f"{name}.txt")


def folder_of(name: Name) -> Path:
    """Where it is, or will be."""
    python = f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}"
    digest = hashlib.sha256(list_of(name).read_bytes() + python.encode()).hexdigest()
    return root() / f"{name}-{digest[:12]}"


def root() -> Path:
    """The folder of all environments: `STILLHOUSE_ENVIRONMENTS`, or one in the user's cache."""
    if named := os.environ.get("STILLHOUSE_ENVIRONMENTS"):
        return Path(named).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "stillhouse" / "environments"


def clean_environ() -> dict[str, str]:
    """Our environment variables without those that would show another python our packages."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def make(folder: Path, pins: Path, on_line: OnLine) -> None:
    """Make the environment of `pins` at `folder`, once: another process that makes it is waited for.

    What an interrupted one left is removed first. Raises `ModelError`.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_line("another process is making it; waiting")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / COMPLETE).exists():
                return
            shutil.rmtree(folder, ignore_errors=True)
            _install(folder, pins, on_line, lock.fileno())
            (folder / COMPLETE).touch()
    except OSError as error:
        raise ModelError(f"{folder}: the environment cannot be made there ({error.strerror or error}).") from None


def _install(folder: Path, pins: Path, on_line: OnLine, lock: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < NEEDED_BYTES:
        raise ModelError(
            f"{folder.parent}: {free / 1e9:.1f} GB are free, the environment needs up to {NEEDED_BYTES / 1e9:.0f} GB; "
            "make room, or name another folder in STILLHOUSE_ENVIRONMENTS."
        )
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    # What a virtual environment was made from may itself be one; its base is what lasts.
    _run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(folder)], on_line, lock)
    torch = [line for line in pins.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    if torch:
        # First and with what it needs, which differs between its builds; the list holds the same versions.
        _run([*install, "--constraint", str(pins), *torch], on_line, lock)
    # Without what they ask for beyond the list: torchvision, torchaudio and triton serve nothing here.
    _run([*install, "--no-deps", "--requirement", str(pins)], on_line, lock)


def _run(command: list[str], on_line: OnLine, lock: int) -> None:
    """Run it and hand on its lines. It inherits the lock, so that no other one begins while it lives without us."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=clean_environ(),
        pass_fds=(lock,),
    )
    assert process.stdout is not None
    said = "it said nothing"
    try:
        with process.stdout as lines:
            for line in lines:
                if line := line.strip():
                    on_line(line)
                    # pip's errors come before its advice on upgrades
                    said = line if line.startswith("ERROR") or not said.startswith("ERROR") else said
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.wait() != 0:
        raise ModelError(
            f"the environment could not be made: {said[:300].rstrip('.')}. It needs a package index "
            f"and {NEEDED_BYTES / 1e9:.0f} GB of disk; run `stillhouse env make` where both are there."
        )


def _variable(name: Name) -> str:
    return f"STILLHOUSE_{name.upper()}_PYTHON"


def _own_python(name: Name) -> Path | None:
    named = os.environ.get(_variable(name))
    return Path(named).absolute() if named else None
