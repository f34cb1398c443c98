"""Lists to rank on their way through router and edge: real broker, real ONNX, models in workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from services.router.app import build_app
from services.router.settings import RouterSettings
from stillhouse.bus.service import running
from stillhouse.client import Client, RequestFailed
from stillhouse.embedded.ports import free_port
from stillhouse.events import DatasetRef, GatePassed, InferenceAudited, InferenceRequested, RouteChanged, StudentTrained
from stillhouse.models.artefact import folder_of
from stillhouse.models.rerank_request import RerankRequest
from stillhouse.models.rerank_student import OnnxReranker
from stillhouse.settings import Redis
from tests.integration.rerankers import WEIGHTS, write_reranker
from tests.integration.router.test_stages import Log

TASK = """
[task]
name = "ranks"
kind = "rerank"
max_input_chars = 2000

[teacher]
kind = "cross_encoder"
folder = "{folder}"
usd_per_call = 0.002

[[student]]
architecture = "cross_encoder"

[gate.comparator]
kind = "ranking"
metric = "kendall"
at_least = 0.9

[audit]
pi = 1.0
"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SURE = ("good text", "bad text", "poor text")
CLOSE = ("fine text", "text", "apple text")  # the student sees them the other way round
BODY = {"model": "ranks", "query": "apple", "documents": list(SURE)}


@pytest.fixture
async def settings(broker, valkey, tmp_path) -> RouterSettings:
    teacher = write_reranker(tmp_path, "teacher")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ranks.toml").write_text(TASK.format(folder=folder_of(teacher)))
    return RouterSettings(
        kafka=broker.settings,
        redis=Redis(url=valkey.url),
        home=tmp_path / "home",
        tasks=tmp_path / "tasks",
        router_edge_port=free_port(),
    )


@contextlib.asynccontextmanager
async def parts(settings) -> AsyncIterator[tuple[Log, Client, httpx.AsyncClient]]:
    topics = (RouteChanged.TYPE, InferenceAudited.TYPE)
    url = f"http://127.0.0.1:{settings.router_edge_port}"
    async with (
        running(build_app(settings)),
        Log(settings.kafka, topics) as log,
        Client(settings) as client,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
    ):
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await http.get("/v1/models")
                    break
                await asyncio.sleep(0.02)
        yield log, client, http


def asked(documents, input_type="rerank") -> InferenceRequested:
    text = RerankRequest(query="apple", documents=documents).as_input()
    return InferenceRequested(task="ranks", input=text, input_type=input_type, deadline_ms=30_000)


async def answer(client, request):
    async with asyncio.timeout(30):
        return await (await client.submit(request))


async def test_the_teacher_ranks_what_comes_by_topic_and_by_http(settings) -> None:
    async with parts(settings) as (_, client, http):
        completed = await answer(client, asked(SURE))
        assert (completed.output, completed.served_by, completed.input_type) == ("[0,2,1]", "teacher", "rerank")
        assert completed.teacher.model.startswith("cross-encoder-")
        again = await client.rerank(task="ranks", query="apple", documents=SURE, timeout=30)
        assert (again.output, again.input) == (completed.output, completed.input)
        assert completed.teacher.distribution["0"] > 0.9 > 0.1 > completed.teacher.distribution["1"]

        said = await http.post("/v1/rerank", json=BODY | {"top_n": 2, "return_documents": True})
        assert said.status_code == 200, said.text
        assert said.headers["x-stillhouse-served-by"] == "teacher"
        assert [one["index"] for one in said.json()["results"]] == [0, 2]
        assert said.json()["results"][0]["document"] == {"text": "good text"}
        assert said.json()["results"][0]["relevance_score"] == completed.teacher.distribution["0"]

        objects = BODY | {"documents": [{"text": text} for text in SURE], "user": "u"}
        again = [await http.post("/v1/rerank", json=objects, headers={"idempotency-key": "k"}) for _ in range(2)]
        assert again[0].json() == again[1].json()
        assert again[0].json()["id"] != said.json()["id"]


async def test_what_cannot_be_ranked_gets_one_sentence(settings) -> None:
    async with parts(settings) as (_, client, http):
        with pytest.raises(RequestFailed, match="takes 2,000"):
            await client.rerank(task="ranks", query="apple", documents=["word " * 500], timeout=30)
        with pytest.raises(ValueError, match="documents"):
            await client.rerank(task="ranks", query="apple", documents=[])
        for request, says in (
            (asked(SURE, "text"), "ranks documents; send their JSON as `input`"),
            (asked(SURE).model_copy(update={"input": "hello"}), "no request to rank documents"),
            (asked(tuple(["word " * 30] * 20)), "takes 2,000"),
        ):
            failure = (await answer(client, request)).failure
            assert says in failure.message
        for body, status, param in (
            ({"model": "ranks", "query": "q"}, 400, "documents"),
            (BODY | {"documents": []}, 400, "documents"),
            (BODY | {"documents": ["a", ""]}, 400, "documents"),
            (BODY | {"max_chunks_per_doc": 3}, 400, "max_chunks_per_doc"),
            (BODY | {"top_n": 0}, 400, "top_n"),
            (BODY | {"model": "nobody"}, 404, "model"),
            (BODY | {"model": "No Body"}, 400, "model"),
        ):
            said = await http.post("/v1/rerank", json=body)
            assert (said.status_code, said.json()["error"]["param"]) == (status, param), said.text
        assert (await http.post("/v1/rerank", content=b"{")).status_code == 400
        chat = {"model": "ranks", "messages": [{"role": "user", "content": "hi"}]}
        said = await http.post("/v1/chat/completions", json=chat)
        assert "send them to /v1/rerank" in said.json()["error"]["message"]


def passed(ref, stage: str, minute: int, threshold: float) -> GatePassed:
    time = NOW + timedelta(minutes=minute)
    student = StudentTrained(
        task="ranks",
        student_id="student",
        job_id="job",
        architecture="cross_encoder",
        rung=0,
        artefact=ref,
        dataset=DatasetRef(version="v", uri="file:///d", n_train=1, n_select=1, cutoff=time - timedelta(minutes=1)),
        teacher_version="t",
    )
    return GatePassed(
        time=time,
        task="ranks",
        student_id="student",
        stage=stage,
        reason="r",
        n=9,
        threshold=threshold,
        student=student,
    )


async def test_a_student_serves_what_it_is_sure_of_and_audits_compare_rankings(settings, tmp_path) -> None:
    other = WEIGHTS | {"fine": -0.2, "apple": 0.2}
    ref = write_reranker(tmp_path, "student", other)
    model = OnnxReranker(folder_of(ref))
    sure, unsure = (model.predict_text(asked(documents).input)[1] for documents in (SURE, CLOSE))
    threshold = (sure + unsure) / 2
    assert unsure < threshold < sure
    async with parts(settings) as (log, client, http):
        for minute, stage in enumerate(("offline", "shadow", "canary")):
            await log.say(passed(ref, stage, minute, threshold))
        route = await log.until(lambda event: isinstance(event, RouteChanged) and event.stage == "live")
        async with asyncio.timeout(30):
            while (served := await answer(client, asked(SURE))).route_version < route.version:
                pass
        escalated = await answer(client, asked(CLOSE))
        said = await http.post("/v1/rerank", json=BODY)
        audits = {}
        for request in (served, escalated):
            wanted = request.request_id
            found = next((e for e in log.events if getattr(e, "request_id", None) == wanted), None)
            audits[wanted] = found or await log.until(lambda e, wanted=wanted: getattr(e, "request_id", None) == wanted)
    assert (served.output, served.served_by) == ("[0,2,1]", "student")
    assert (escalated.output, escalated.served_by, escalated.reason) == ("[0,1,2]", "teacher", "below_threshold")
    assert escalated.student.output == "[2,1,0]"
    assert said.headers["x-stillhouse-served-by"] == "student"
    assert said.headers["x-stillhouse-model"] == "student"
    first, second = audits[served.request_id], audits[escalated.request_id]
    assert (first.would_serve, first.agrees, first.input_type) == (True, True, "rerank")
    assert (second.would_serve, second.agrees) == (False, True)
    assert json.loads(first.input)["query"] == "apple"
