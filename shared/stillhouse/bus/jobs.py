"""Durable jobs: a queue in Redis with leases, and supervised subprocesses that do the work.

A handler only enqueues; a worker claims a job under a lease and keeps it by heartbeats. A worker that dies stops
beating, its lease runs out, and the job is claimed again. A job's folder (`job.json`, `progress.json`, `result.json`,
`checkpoints/`) outlives everything in Redis, so an empty Redis loses no job: enqueue what has no result.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from stillhouse.files import read_json as read_json
from stillhouse.files import write_json as write_json

MAX_ATTEMPTS: Final = 3
PERMANENT: Final = 3  # exit status of a job that would fail every time
RESULT_FILE: Final = "result.json"
ERROR_FILE: Final = "error.json"

log = structlog.get_logger()

# KEYS: jobs (hash: id -> record as JSON), queue (sorted set by ready time), leases (sorted set by expiry).
# Times are the server's, in milliseconds: workers' clocks do not matter.
_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
_ENQUEUE = (
    _NOW
    + """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode({payload=ARGV[2], state='queued', attempts=0}))
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
return 1
"""
)
_CLAIM = (
    _NOW
    + """
local id = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1)[1]
if not id then
  id = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1)[1]
  if not id then return false end
  redis.call('ZREM', KEYS[2], id)
end
local record = cjson.decode(redis.call('HGET', KEYS[1], id))
record.attempts = record.attempts + 1
record.state = 'running'
record.worker = ARGV[1]
record.token = ARGV[2]
redis.call('HSET', KEYS[1], id, cjson.encode(record))
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[3]), id)
return {id, cjson.encode(record)}
"""
)
_HEARTBEAT = (
    _NOW
    + """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then return 0 end
local record = cjson.decode(raw)
if record.state ~= 'running' or record.token ~= ARGV[2] then return 0 end
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[3]), ARGV[1])
return 1
"""
)
# ARGV: id, token, new state, error, delay in ms, attempts to give back.
_SETTLE = (
    _NOW
    + """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw then return 0 end
local record = cjson.decode(raw)
if record.state ~= 'running' or record.token ~= ARGV[2] then return 0 end
record.state = ARGV[3]
record.error = ARGV[4]
record.token = ''
record.attempts = record.attempts - tonumber(ARGV[6])
redis.call('ZREM', KEYS[3], ARGV[1])
if ARGV[3] == 'queued' then
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[5]), ARGV[1])
else
  record.payload = '{}'
end
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(record))
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job. `token` proves the claim: whoever lost the lease cannot settle the job any more."""

    job_id: str
    payload: dict[str, Any]
    attempts: int
    token: str
    last_error: str = ""

    @property
    def exhausted(self) -> bool:
        """Its last allowed attempt ended without anybody saying so: fail it, do not run it."""
        return self.attempts > MAX_ATTEMPTS


class LeaseLost(Exception):
    """Another worker has the job now; this one must stop without a result."""


class JobQueue:
    """Jobs of one kind, in Redis under `stillhouse:{jobs:<name>}:`. Any number of workers may claim."""

    def __init__(self, redis: Redis, name: str) -> None:
        # The braces keep the three keys in one slot of a Redis cluster.
        prefix = f"stillhouse:{{jobs:{name}}}:"
        self._redis = redis
        self._jobs = prefix + "jobs"
        self._queue = prefix + "queue"
        self._leases = prefix + "leases"

    async def enqueue(self, job_id: str, payload: dict[str, Any], *, delay_s: float = 0.0) -> bool:
        """Put a job in the queue, to be claimed after `delay_s`. False: the id is known, whatever became of it."""
        return bool(await self._run(_ENQUEUE, job_id, json.dumps(payload), int(delay_s * 1000)))

    async def claim(self, worker: str, lease_s: float) -> Job | None:
        """The next job, for `lease_s` seconds: one whose lease ran out, else the oldest that is ready, else None."""
        token = uuid.uuid4().hex
        reply = await self._run(_CLAIM, worker, token, int(lease_s * 1000))
        if reply is None:
            return None
        job_id, record = _text(reply[0]), json.loads(reply[1])
        return Job(job_id, json.loads(record["payload"]), int(record["attempts"]), token, record.get("error") or "")

    async def heartbeat(self, job: Job, lease_s: float) -> bool:
        """Keep the job for another `lease_s` seconds. False: it is not ours any more."""
        return bool(await self._run(_HEARTBEAT, job.job_id, job.token, int(lease_s * 1000)))

    async def complete(self, job: Job) -> bool:
        """The job's effects are out. True exactly once per job."""
        return await self._settle(job, "done", "")

    async def fail(self, job: Job, error: str) -> bool:
        """The job ends without a result, for good. True exactly once per job."""
        return await self._settle(job, "failed", error)

    async def retry(self, job: Job, error: str, *, delay_s: float = 0.0, counts: bool = True) -> bool:
        """Put a claimed job back, to be claimed after `delay_s`. `counts=False`: as if it had not been tried."""
        return await self._settle(job, "queued", error, int(delay_s * 1000), 0 if counts else 1)

    async def state(self, job_id: str) -> str | None:
        """`queued`, `running`, `done` or `failed`; None: not known here."""
        raw: Any = await self._redis.hget(self._jobs, job_id)
        return None if raw is None else str(json.loads(raw)["state"])

    async def pending(self) -> int:
        """Jobs that wait or run."""
        waiting = await self._redis.zcard(self._queue)
        return int(waiting) + int(await self._redis.zcard(self._leases))

    async def _settle(self, job: Job, state: str, error: str, delay_ms: int = 0, give_back: int = 0) -> bool:
        return bool(await self._run(_SETTLE, job.job_id, job.token, state, error[:2000], delay_ms, give_back))

    async def _run(self, script: str, *arguments: str | int) -> Any:
        return await self._redis.eval(script, 3, self._jobs, self._queue, self._leases, *arguments)


async def work(
    queue: JobQueue, worker: str, run: Callable[[Job], Awaitable[None]], *, lease_s: float, idle_s: float = 0.3
) -> None:
    """Claim and run jobs one after the other until cancelled.

    `run` settles its job. Where it raises instead, the job goes back to the queue (until it is exhausted); where it is
    cancelled, the job goes back as if it had not been tried.
    """
    while True:
        try:
            job = await queue.claim(worker, lease_s)
        except RedisError as error:
            log.warning("job_queue_unreachable", error=str(error))
            await asyncio.sleep(max(1.0, idle_s))
            continue
        if job is None:
            await asyncio.sleep(idle_s)
            continue
        try:
            await run(job)
        except asyncio.CancelledError:
            await asyncio.shield(queue.retry(job, "the worker was stopped", counts=False))
            raise
        except LeaseLost:
            log.warning("job_lease_lost", job_id=job.job_id)
        except Exception as error:
            log.exception("job_handling_failed", job_id=job.job_id, attempts=job.attempts)
            try:
                await queue.retry(job, f"{type(error).__name__}: {error}", delay_s=min(30.0, 2.0**job.attempts))
            except RedisError as unreachable:
                log.warning("job_queue_unreachable", error=str(unreachable))  # the lease runs out by itself


@dataclass(frozen=True, slots=True)
class Exit:
    """How a job's process ended. `error` is empty where it left a result."""

    code: int
    error: str = ""
    permanent: bool = False
    out_of_memory: bool = False


async def run_process(module: str, folder: Path, queue: JobQueue, job: Job, *, lease_s: float) -> Exit:
    """Run `python -m <module> <folder>` under the job's lease until it ends with or without `result.json`.

    Output goes to `job.log` in the folder. The process is stopped where the lease is lost (`LeaseLost`) or this call
    is cancelled. A result counts from the moment that it is there, whatever becomes of the process after that.
    """
    (folder / ERROR_FILE).unlink(missing_ok=True)
    before = _out_of_memory_kills()
    with (folder / "job.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, str(folder), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    beats, loop = lease_s / 3, asyncio.get_running_loop()
    next_beat = loop.time() + beats
    ended = asyncio.create_task(process.wait())
    try:
        while not ended.done() and not (folder / RESULT_FILE).exists():
            await asyncio.wait({ended}, timeout=0.1)
            if loop.time() >= next_beat:
                next_beat = loop.time() + beats
                if not await _beat(queue, job, lease_s):
                    raise LeaseLost(job.job_id)
    except BaseException:
        await _stop(process, ended)
        raise
    if (folder / RESULT_FILE).exists():
        await _stop(process, ended)
        return Exit(0)
    code = ended.result()
    said = read_json(folder / ERROR_FILE) or {}
    if code in (-signal.SIGKILL, 137):
        # Only the kernel kills without being asked; its own count says whether memory was the reason.
        sure = _out_of_memory_kills() > before
        phase = (read_json(folder / "progress.json") or {}).get("phase", "start")
        error = f"{'out of memory' if sure else 'killed, most likely out of memory'} in phase {phase}"
        return Exit(code, f"{error}; give the machine more memory or a smaller candidate.", out_of_memory=True)
    error = said.get("message") or f"the process ended with status {code} and no result; see {folder / 'job.log'}"
    return Exit(code, error, permanent=code == PERMANENT, out_of_memory=bool(said.get("out_of_memory")))


async def _beat(queue: JobQueue, job: Job, lease_s: float) -> bool:
    try:
        return await queue.heartbeat(job, lease_s)
    except RedisError as error:
        # Whether the lease is lost is not known; the result decides, and it is accepted once.
        log.warning("job_queue_unreachable", error=str(error))
        return True


async def _stop(process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
    done, _ = await asyncio.wait({ended}, timeout=0.2)
    for ask in (process.terminate, process.kill):
        if not done:
            ask()
            done, _ = await asyncio.wait({ended}, timeout=5)


def end_with_parent(every_s: float = 1.0) -> None:
    """Called in a job's process: end it when its service dies, because the next service starts the job again."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_s)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _out_of_memory_kills() -> int:
    """How many processes of this control group the kernel has killed for want of memory (cgroup v2), else 0."""
    try:
        lines = Path("/sys/fs/cgroup/memory.events").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
