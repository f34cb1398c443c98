"""What the kernel says of a process: CPU time, memory, open files."""

from __future__ import annotations

import os
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of a process and of its children that have ended, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return sum(int(fields[i]) for i in (11, 12, 13, 14)) / TICKS


def cpu_ns(pid: int) -> int:
    """The same without children, in nanoseconds: a light process spends less than a tick on many requests.

    0 for a process that has ended.
    """
    try:
        # The clock id that clock_getcpuclockid(3) makes of a process id; Python has it for threads only.
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def rss_mb(pid: int) -> float:
    """Resident memory in MB, shared pages included."""
    return _rollup(pid, "Rss:")


def pss_mb(pid: int) -> float:
    """Resident memory in MB, shared pages divided among those who share them: what sums over processes."""
    return _rollup(pid, "Pss:")


def open_files(pid: int) -> int:
    """File descriptors that are open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                text = Path(f"/proc/{parent}/task/{task}/children").read_text(encoding="utf-8")
                found += [int(child) for child in text.split()]
        except OSError:  # it ended meanwhile
            continue
    return found


def _rollup(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return 0.0
