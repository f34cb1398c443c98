"""The job queue against a real Valkey: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from stillhouse.bus.jobs import JobQueue, LeaseLost, read_json, run_process, work, write_json


async def claimed(queue: JobQueue, worker: str, lease_s: float = 30.0):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        job = await queue.claim(worker, lease_s)
        if job is not None:
            return job
        await asyncio.sleep(0.01)
    raise AssertionError("no job could be claimed")


async def test_a_job_is_known_by_its_id_whatever_became_of_it(redis) -> None:
    queue = JobQueue(redis, "t")
    assert await queue.enqueue("a", {"x": 1, "empty": {}, "list": []})
    assert not await queue.enqueue("a", {"x": 2})
    job = await claimed(queue, "w")
    assert (job.job_id, job.payload, job.attempts) == ("a", {"x": 1, "empty": {}, "list": []}, 1)
    assert not await queue.enqueue("a", {"x": 3})
    assert await queue.complete(job)
    assert not await queue.enqueue("a", {"x": 4})
    assert await queue.claim("w", 30) is None
    assert (await queue.state("a"), await queue.pending()) == ("done", 0)


async def test_racing_workers_get_every_job_once(redis) -> None:
    queue = JobQueue(redis, "t")
    wanted = {f"job-{number}" for number in range(60)}
    for job_id in wanted:
        await queue.enqueue(job_id, {})
    done: list[str] = []

    async def worker(name: str) -> None:
        while (job := await queue.claim(name, 30)) is not None:
            await asyncio.sleep(0)
            assert await queue.complete(job)
            done.append(job.job_id)

    await asyncio.gather(*(worker(f"w{number}") for number in range(4)))
    assert sorted(done) == sorted(wanted)


async def test_a_dead_workers_job_is_claimed_again_and_its_late_result_is_refused(redis) -> None:
    queue = JobQueue(redis, "t")
    await queue.enqueue("a", {})
    dead = await claimed(queue, "dead", lease_s=0.05)
    heir = await claimed(queue, "heir")
    assert (heir.attempts, heir.token != dead.token) == (2, True)
    assert not await queue.heartbeat(dead, 30)
    assert not await queue.complete(dead)
    assert not await queue.fail(dead, "late")
    assert not await queue.retry(dead, "late")
    assert await queue.complete(heir)
    assert not await queue.complete(heir)
    assert await queue.state("a") == "done"


async def test_a_heartbeat_keeps_a_job_beyond_its_first_lease(redis) -> None:
    queue = JobQueue(redis, "t")
    await queue.enqueue("a", {})
    job = await claimed(queue, "w", lease_s=0.2)
    for _ in range(5):
        await asyncio.sleep(0.1)
        assert await queue.heartbeat(job, 0.2)
        assert await queue.claim("thief", 30) is None


async def test_after_three_attempts_a_job_is_exhausted(redis) -> None:
    queue = JobQueue(redis, "t")
    await queue.enqueue("a", {})
    for attempt in range(1, 4):
        job = await claimed(queue, "w", lease_s=0.02)
        assert (job.attempts, job.exhausted) == (attempt, False)
    last = await claimed(queue, "w")
    assert last.exhausted
    assert await queue.fail(last, "died")
    assert await queue.state("a") == "failed"


async def test_a_stopped_workers_job_goes_back_as_if_untried(redis) -> None:
    queue = JobQueue(redis, "t")
    await queue.enqueue("a", {})
    began = asyncio.Event()

    async def run(job) -> None:
        began.set()
        await asyncio.Event().wait()

    worker = asyncio.create_task(work(queue, "w", run, lease_s=30, idle_s=0.01))
    await asyncio.wait_for(began.wait(), 5)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    assert (await claimed(queue, "w2")).attempts == 1


async def test_delayed_jobs_wait(redis) -> None:
    queue = JobQueue(redis, "t")
    await queue.enqueue("later", {}, delay_s=30)
    await queue.enqueue("now", {})
    assert (await claimed(queue, "w")).job_id == "now"
    assert await queue.claim("w", 30) is None
    assert await queue.pending() == 2


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that a job's process can run, and gives its name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def write(code: str) -> str:
        prologue = "import sys, os, json, time, signal\nfolder = sys.argv[1]\n"
        (tmp_path / "some_job.py").write_text(prologue + textwrap.dedent(code))
        return "some_job"

    return write


async def supervised(redis, folder: Path, module: str, lease_s: float = 30.0):
    queue = JobQueue(redis, "t")
    await queue.enqueue("a", {})
    job = await claimed(queue, "w", lease_s)
    await asyncio.to_thread(folder.mkdir)
    return await run_process(module, folder, queue, job, lease_s=lease_s)


async def test_a_process_that_leaves_a_result_has_no_error(redis, tmp_path, module) -> None:
    name = module(
        """
        open(folder + "/x", "w").write('{"a": 1}')
        os.replace(folder + "/x", folder + "/result.json")
        """
    )
    assert (await supervised(redis, tmp_path / "f", name)).error == ""
    assert read_json(tmp_path / "f" / "result.json") == {"a": 1}


async def test_a_crash_is_told_from_an_error_that_would_repeat(redis, tmp_path, module) -> None:
    name = module("open(folder + '/error.json','w').write('{\"message\": \"no data\"}'); sys.exit(3)")
    exit_ = await supervised(redis, tmp_path / "f", name)
    assert (exit_.error, exit_.permanent) == ("no data", True)
    name = module("sys.exit(7)")
    exit_ = await run_process(name, tmp_path / "f", JobQueue(redis, "t"), None, lease_s=30)  # type: ignore[arg-type]
    assert (exit_.code, exit_.permanent, exit_.out_of_memory) == (7, False, False)
    assert "status 7" in exit_.error


async def test_a_kill_by_the_kernel_is_named_out_of_memory(redis, tmp_path, module) -> None:
    name = module("os.kill(os.getpid(), signal.SIGKILL)")
    (tmp_path / "f").mkdir()
    write_json(tmp_path / "f" / "progress.json", {"phase": "training"})
    exit_ = await run_process(name, tmp_path / "f", JobQueue(redis, "t"), None, lease_s=30)  # type: ignore[arg-type]
    assert exit_.out_of_memory
    assert "out of memory in phase training" in exit_.error


async def test_a_process_whose_lease_is_lost_is_stopped(redis, tmp_path, module) -> None:
    name = module("open(folder + '/pid','w').write(str(os.getpid()))\ntime.sleep(60)")
    queue, folder = JobQueue(redis, "t"), tmp_path / "f"
    folder.mkdir()
    await queue.enqueue("a", {})
    job = await claimed(queue, "slow", 0.02)
    await claimed(queue, "heir")
    with pytest.raises(LeaseLost):
        await run_process(name, folder, queue, job, lease_s=1.5)
    pid = int((folder / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)
