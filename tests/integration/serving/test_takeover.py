"""A student that writes takes over behind the edge, is swapped, and dies, all under load: no request fails.

vLLM is a stand-in; everything else is real: broker, router, edge, replicas, the official client. Real students do the
same in `tests/e2e/test_llm.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from openai import AsyncOpenAI

from services.router.app import build_app
from services.router.settings import RouterSettings
from stillhouse.bus.service import running
from stillhouse.embedded.ports import free_port
from stillhouse.events import DatasetRef, GatePassed, RouteChanged, StudentTrained
from stillhouse.files import read_json
from stillhouse.models.artefact import write_manifest
from stillhouse.models.causal_lm import ARCHITECTURE, CausalLmSpec
from stillhouse.models.vllm.ending import end_replicas
from stillhouse.settings import Redis
from tests.integration.router.test_stages import Log

pytestmark = pytest.mark.usefixtures("fake_vllm")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASK = """
[task]
name = "write"
kind = "generate"

[teacher]
kind = "recorded"
file = "answers.jsonl"
usd_per_call = 0.004

[[student]]
architecture = "causal_lm"
base = "base"

[gate]
canary_share = 1.0
student_timeout_ms = 20000

[audit]
pi = 0.1
"""
LONG = "please " * 300
SCHEMA = {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}


@pytest.fixture
async def settings(broker, valkey, tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "write.toml").write_text(TASK)
    asked = [f"question {n}" for n in range(200)] + [LONG.strip()]
    rows = (json.dumps({"input": one, "output": '{"said": "taught"}'}) for one in asked)
    (tmp_path / "tasks" / "answers.jsonl").write_text("\n".join(rows))
    yield RouterSettings(
        kafka=broker.settings,
        redis=Redis(url=valkey.url),
        home=tmp_path / "home",
        tasks=tmp_path / "tasks",
        router_edge_port=free_port(),
    )
    await asyncio.to_thread(end_replicas, tmp_path / "home")


def artefact(home, student_id: str, **fake: object):
    folder = home / "students" / student_id
    folder.mkdir(parents=True)
    fake.setdefault("says", json.dumps({"said": student_id}))
    (folder / "config.json").write_text(json.dumps({"fake": fake}))
    (folder / "model.safetensors").write_bytes(student_id.encode() * 100)
    CausalLmSpec(student_id, "base", response_schema=SCHEMA).write(folder)
    return write_manifest(folder)


def verdict(ref, stage: str, minute: int, name: str) -> GatePassed:
    time = NOW + timedelta(minutes=minute)
    dataset = DatasetRef(version="v", uri="file:///d", n_train=1, n_select=1, cutoff=time - timedelta(minutes=1))
    student = StudentTrained(
        task="write",
        student_id=name,
        job_id=f"job-{name}",
        architecture=ARCHITECTURE,
        rung=0,
        artefact=ref,
        dataset=dataset,
        teacher_version="t",
    )
    return GatePassed(
        time=time, task="write", student_id=name, stage=stage, reason="r", n=9, threshold=0.0, student=student
    )


async def lead_live(log, ref, name: str, minute: int) -> None:
    """Through every stage; the router obeys before the next one is said."""
    for after, (stage, route) in enumerate((("offline", "shadow"), ("shadow", "canary"), ("canary", "live"))):
        await log.say(verdict(ref, stage, minute + after, name))
        await log.until(
            lambda e, route=route: (
                isinstance(e, RouteChanged)
                and name in {s.student_id for s in (e.live, e.candidate) if s is not None}
                and (
                    e.live is not None and e.live.student_id == name if route == "live" else e.candidate_stage == route
                )
            )
        )


class Load:
    """Clients that ask one question after the other; whatever is not an answer is a failure."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client
        self.served: Counter[str] = Counter()
        self.failures: list[str] = []
        self._asking: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._asking = [asyncio.create_task(self._run(n)) for n in range(8)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self._asking:
            one.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def until(self, who: str, more: int = 30) -> None:
        """Wait until `who` has given so many answers more."""
        wanted = self.served[who] + more
        async with asyncio.timeout(60):
            while self.served[who] < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def _run(self, n: int) -> None:
        while True:
            n = (n + 8) % 200
            try:
                said = await ask(self._client, f"question {n}")
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.served[said] += 1


async def ask(client: AsyncOpenAI, text: str) -> str:
    """Whose answer it is: `taught`, or a student's id."""
    said = await client.chat.completions.create(model="write", messages=[{"role": "user", "content": text}])
    return json.loads(said.choices[0].message.content or "")["said"]


@contextlib.asynccontextmanager
async def platform(settings):
    url = f"http://127.0.0.1:{settings.router_edge_port}/v1"
    async with (
        running(build_app(settings)),
        Log(settings.kafka, (RouteChanged.TYPE,)) as log,
        AsyncOpenAI(base_url=url, api_key="k", max_retries=0, timeout=60) as client,
    ):
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(Exception):
                    await client.models.list()
                    break
                await asyncio.sleep(0.05)
        yield log, client


async def test_takeover_swap_and_death_under_load_fail_no_request(settings) -> None:
    first, second = (artefact(settings.home, name, wait_s=0.02) for name in ("s-1", "s-2"))
    async with platform(settings) as (log, client), Load(client) as load:
        await load.until("taught")
        await lead_live(log, first, "s-1", 0)
        await load.until("s-1")
        await lead_live(log, second, "s-2", 10)
        await load.until("s-2")
        before = load.served["s-1"]
        state = read_json(settings.home / "replicas" / "s-2" / "replica.json")
        os.kill(state["vllm_pid"], signal.SIGKILL)
        await load.until("taught")
        await load.until("s-2")
        assert load.served["s-1"] == before, "who was replaced answers no more"
    assert load.failures == []


async def test_what_a_student_cannot_answer_well_its_teacher_answers(settings) -> None:
    ref = artefact(settings.home, "s-1", says="no JSON at all", longest=1000)
    good = artefact(settings.home, "s-2", longest=1000)
    async with platform(settings) as (log, client):
        await lead_live(log, ref, "s-1", 0)
        for n in range(12):  # not the schema
            assert await ask(client, f"question {n}") == "taught"
        await lead_live(log, good, "s-2", 10)
        async with asyncio.timeout(30):
            while await ask(client, "question 1") != "s-2":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await ask(client, LONG) == "taught", "longer than the student's context"
        assert await ask(client, "question 2") == "s-2", "which says nothing against it"
