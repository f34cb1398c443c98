"""Where and when a benchmark ran: what every result file says beside its figures."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def start() -> dict[str, Any]:
    """The facts that are taken before the first measurement."""
    return {
        "machine": machine(),
        "commit": commit(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
    }


def finish(
    begun: Mapping[str, Any], *, repeats: int, quick: bool, data: str, packages: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`meta` of a result file: `begun` (of `start`), versions, sample sizes, and how busy the machine was.

    `repeats` is what the benchmark's figures are taken over; `data` names the data, `generated` where there is none.
    """
    return {
        **begun,
        "load_average_at_end": [round(value, 2) for value in os.getloadavg()],
        "versions": versions(packages),
        "repeats": repeats,
        "quick": quick,
        "data": data,
    }


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system of this machine."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": None,  # no figure here uses one
    }


def commit() -> str:
    """The checkout's commit, `-dirty` where tracked files differ from it; `unknown` outside of git."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        # Results are what a run writes, so they do not count as changes.
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/benchmarks/results"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "unknown"
    if head.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and of `packages` in this environment; peers report theirs themselves."""
    found = {"python": platform.python_version()}
    for name in ("stillhouse", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
