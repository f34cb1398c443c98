"""Replicas of a stand-in for vLLM: shared, started again, ended, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.lease import ReplicaLease
from stillhouse.models.vllm.processes import members
from stillhouse.models.vllm.spec import ServeSpec
from stillhouse.models.vllm.student import VllmStudent
from tests.integration.serving.conftest import processes_of, until

pytestmark = pytest.mark.usefixtures("fake_vllm")
SPEC = ServeSpec("s-1")


def _lease(folder: Path, home: Path, spec: ServeSpec = SPEC) -> ReplicaLease:
    return ReplicaLease(folder, home, spec, linger_s=3.0)


async def test_a_replica_answers_while_it_is_held_and_leaves_nothing_behind(checkpoint, tmp_path) -> None:
    lease = _lease(checkpoint(), tmp_path)
    assert lease.base_url() is None
    await lease.start()
    url = await lease.ready(15)
    assert url == lease.base_url()
    student = VllmStudent("s-1", lease.base_url)
    assert (await student.complete(ChatRequest.of("text", "hello"))).content == "fine"
    await asyncio.sleep(4)
    assert lease.base_url() == url, "longer than it lingers: the lease keeps it"
    assert lease.cpu_seconds() > 0
    assert len(processes_of(tmp_path, "s-1")) == 3, "supervisor, server and engine"
    await lease.release()
    assert lease.base_url() is None
    with pytest.raises(ModelError, match="is not ready"):
        await student.complete(ChatRequest.of("text", "hello"))
    await student.close()
    until(lambda: not processes_of(tmp_path, "s-1"))
    state = lease._current()
    assert state is None or state.port is None or state.state == "ended"


async def test_several_share_one_replica_and_the_last_one_ends_it(checkpoint, tmp_path) -> None:
    folder = checkpoint()
    ours, others = _lease(folder, tmp_path), _lease(folder, tmp_path)
    await asyncio.gather(ours.start(), others.start())
    assert await ours.ready(15) == await others.ready(15)
    assert len(processes_of(tmp_path, "s-1")) == 3
    await ours.release()
    await asyncio.sleep(5)
    assert others.base_url() is not None
    await others.release()
    until(lambda: not processes_of(tmp_path, "s-1"))


async def test_other_settings_for_the_same_student_are_refused(checkpoint, tmp_path) -> None:
    folder = checkpoint()
    lease = _lease(folder, tmp_path)
    await lease.start()
    with pytest.raises(ModelError, match=r"runs with other settings \(max_model_len 1024\)"):
        await _lease(folder, tmp_path, ServeSpec("s-1", max_model_len=64)).start()
    await lease.release()


async def test_a_killed_server_is_started_again_without_its_old_engine(checkpoint, tmp_path) -> None:
    lease = _lease(checkpoint(), tmp_path)
    await lease.start()
    first = await lease.ready(15)
    before = lease.state()
    assert before is not None
    assert before.vllm_pid is not None
    engine = set(members(before.vllm_pid)) - {before.vllm_pid}
    assert engine
    os.kill(before.vllm_pid, signal.SIGKILL)
    until(lambda: (state := lease.state()) is not None and state.state != "ready")
    assert lease.base_url() is None
    assert "was killed" in (lease.state() or before).error
    second = await lease.ready(15)
    after = lease.state()
    assert after is not None
    assert (after.restarts, after.error) == (1, "")
    assert second != first
    assert not engine & processes_of(tmp_path, "s-1"), "an orphan would hold the memory twice"
    await lease.release()
    until(lambda: not processes_of(tmp_path, "s-1"))


async def test_a_killed_supervisor_takes_its_server_along_and_is_replaced(checkpoint, tmp_path) -> None:
    lease = _lease(checkpoint(), tmp_path)
    await lease.start()
    await lease.ready(15)
    before = lease.state()
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)
    deadline = time.monotonic() + 15
    while (state := lease.state()) is None or state.pid in (0, before.pid) or lease.base_url() is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert before.vllm_pid not in processes_of(tmp_path, "s-1")
    assert len(processes_of(tmp_path, "s-1")) == 3
    await lease.release()
    until(lambda: not processes_of(tmp_path, "s-1"))


async def test_a_server_that_cannot_start_says_why(checkpoint, tmp_path) -> None:
    lease = _lease(checkpoint(fails="ValueError: head size 24 is not supported"), tmp_path)
    await lease.start()
    with pytest.raises(ModelError, match="ended with status 1 before it was ready: ValueError: head size 24"):
        await lease.ready(15)
    assert lease.base_url() is None
    await lease.release()
    until(lambda: not processes_of(tmp_path, "s-1"))


async def test_who_waits_too_briefly_is_told_what_it_does(checkpoint, tmp_path) -> None:
    lease = _lease(checkpoint(slow_s=60), tmp_path)
    await lease.start()
    with pytest.raises(ModelError, match=r"not ready after 1 s \((loading|starting)\)"):
        await lease.ready(1)
    await lease.release()
    until(lambda: not processes_of(tmp_path, "s-1"))


async def test_what_may_not_or_cannot_be_served_is_refused_before_a_start(checkpoint, tmp_path) -> None:
    folder = checkpoint()
    (folder / "extra.pkl").write_bytes(b"")
    with pytest.raises(ModelError, match=r"extra\.pkl: not served"):
        await _lease(folder, tmp_path).start()
    (folder / "extra.pkl").unlink()
    with pytest.raises(ModelError, match="NVFP4 needs a Blackwell GPU"):
        await _lease(folder, tmp_path, ServeSpec("s-1", quantization="nvfp4")).start()
    with pytest.raises(ModelError, match=r"GiB of memory to be served .* GiB are free"):
        await _lease(folder, tmp_path, ServeSpec("s-1", kv_cache_gib=100_000)).start()
    assert not processes_of(tmp_path, "s-1")


def test_a_holder_that_is_killed_holds_nothing(checkpoint, tmp_path) -> None:
    """It outlives whoever started it by its linger time, and no longer."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from stillhouse.models.vllm.lease import ReplicaLease\n"
        "from stillhouse.models.vllm.spec import ServeSpec\n"
        "async def main():\n"
        "    lease = ReplicaLease(Path(sys.argv[1]), Path(sys.argv[2]), ServeSpec('s-1'), linger_s=3.0)\n"
        "    await lease.start()\n"
        "    print(await lease.ready(15), flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(checkpoint()), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().startswith("http://127.0.0.1:")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert len(processes_of(tmp_path, "s-1")) == 3
    until(lambda: not processes_of(tmp_path, "s-1"))
