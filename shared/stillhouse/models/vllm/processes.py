"""What a supervisor needs of Linux: ends that reach every descendant, and what they cost."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from pathlib import Path
from typing import Final

from stillhouse.processes import end_group, last_line

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
TAIL_BYTES: Final = 200_000
# vLLM's own summary of an error that its engine named before.
NO_REASON: Final = re.compile(r"Engine core initialization failed|EngineDeadError|See root cause|See stack trace")
ERROR_LINE: Final = re.compile(r"(?:^|\s)(?:[A-Za-z_.]*(?:Error|Exception|Interrupt)): \S")
PREFIX: Final = re.compile(r"^\(\w+(?: pid=\d+)?\)\s*|(?:ERROR|WARNING|INFO) [\d-]+ [\d:]+ \[[^\]]*\]\s*")


def adopt_orphans() -> None:
    """From now on, what our descendants leave behind becomes ours, so that it can be ended, reaped and counted."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Called in a child between fork and exec: SIGTERM where its parent dies, however that dies."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def end_session(leader: int, wait_s: float) -> None:
    """SIGTERM to the process group of `leader`, then SIGKILL to every process of its session after `wait_s`."""
    try:
        os.killpg(leader, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        wait_s = 0
    deadline = time.monotonic() + wait_s
    while members(leader) and time.monotonic() < deadline:
        reap()
        time.sleep(0.05)
    for pid in members(leader):
        _kill(pid)
    end_group(leader)
    deadline = time.monotonic() + 5  # SIGKILL is carried out soon, but not at once
    while members(leader) and time.monotonic() < deadline:
        reap()
        time.sleep(0.02)


def end_marked(marker: str) -> list[int]:
    """SIGKILL to every process that has `marker` (`NAME=value`) in its environment, but us; their pids."""
    wanted, ended = marker.encode(), []
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if pid != os.getpid() and wanted in environment.split(b"\0"):
            _kill(pid)
            ended.append(pid)
    return ended


def reap() -> None:
    """Take the exit statuses of adopted processes that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def members(session: int) -> list[int]:
    """The living processes of a session."""
    return [pid for pid, stat in _stats().items() if stat[3] == session and stat[0] != "Z"]


def cpu_seconds_of(root: int) -> float:
    """User and system seconds of `root` and all its descendants, those that have ended included."""
    stats = _stats()
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat[1], []).append(pid)
    ticks, waiting = 0, [root] if root in stats else []
    while waiting:
        pid = waiting.pop()
        ticks += stats[pid][4]
        waiting += children.get(pid, ())
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory_of(root: int) -> int:
    """Peak resident bytes of `root` and its living descendants, added up: pages that they share count for each."""
    stats = _stats()
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat[1], []).append(pid)
    total, waiting = 0, [root] if root in stats else []
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
            total += 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
        waiting += children.get(pid, ())
    return total


def reason_in(log_file: Path) -> str:
    """The last line of a log that names an error, else its last line."""
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return last_line(log_file)
    for line in reversed(lines):
        if ERROR_LINE.search(line) and not NO_REASON.search(line):
            said = line
            while PREFIX.search(said):
                said = PREFIX.sub("", said)
            return said.strip()[:300]
    return last_line(log_file)


def _stats() -> dict[int, tuple[str, int, int, int, int]]:
    """By pid: state, parent, group, session, and ticks of CPU time with those of children that were waited for."""
    found = {}
    for pid in _pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        ticks = sum(int(one) for one in fields[11:15])
        found[pid] = (fields[0], int(fields[1]), int(fields[2]), int(fields[3]), ticks)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
