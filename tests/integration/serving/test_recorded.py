"""A server serves only after it answered as the student did when it was measured: a replica here, or one by its URL."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from aiohttp import web

from stillhouse.embedded.ports import free_port
from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.lease import ReplicaLease
from stillhouse.models.vllm.recorded import Recorded, compare, read_recorded, write_recorded
from stillhouse.models.vllm.remote import RemoteServer
from stillhouse.models.vllm.served import ServedStudent
from stillhouse.models.vllm.spec import ServeSpec
from tests.integration.serving.conftest import processes_of, until
from tests.integration.serving.fake_vllm import answer

HELLO = ChatRequest.of("text", "hello")
ASKED = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9, "temperature": 0}


class Server:
    """A vLLM that others run: its answers are in `texts`, one for each question in turn, the last one for ever."""

    def __init__(self) -> None:
        self.port = free_port()
        self.texts = ["fine"]
        self.asked: list[dict] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.asynccontextmanager
    async def serving(self):
        async def complete(request: web.Request) -> web.Response:
            self.asked.append(await request.json())
            text = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
            return web.json_response(answer(self.asked[-1]["model"], text), status=self.status)

        async def models(request: web.Request) -> web.Response:
            return web.json_response({"data": []}, status=self.status)

        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/v1/models", models)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        try:
            yield self
        finally:
            await runner.cleanup()


@pytest.fixture
def artefact(tmp_path) -> Path:
    folder = tmp_path / "artefact"
    folder.mkdir()
    CausalLmSpec("s-1", "base").write(folder)
    write_recorded(folder, [Recorded(ASKED, "fine")] * 5)
    return folder


async def test_one_answer_may_differ_and_two_may_not(artefact) -> None:
    async with Server().serving() as server:
        server.texts = ["fine", "other", "fine"]
        await asyncio.to_thread(compare, server.url, "s-1", read_recorded(artefact), 5.0)
        assert [asked["model"] for asked in server.asked] == ["s-1"] * 5
        server.texts = ["fine", "other", "another", "fine"]
        with pytest.raises(ModelError, match=r"2 of 5 recorded .* such as '(an)?other' where it was 'fine'"):
            await asyncio.to_thread(compare, server.url, "s-1", read_recorded(artefact), 5.0)
        server.status = 500
        with pytest.raises(ModelError, match="status 500"):
            await asyncio.to_thread(compare, server.url, "s-1", read_recorded(artefact), 5.0)


def test_what_is_no_recording_is_refused_and_none_is_none(artefact) -> None:
    (artefact / "recorded.json").write_text("[{}]")
    with pytest.raises(ModelError, match="holds no recorded answers"):
        read_recorded(artefact)
    (artefact / "recorded.json").unlink()
    assert read_recorded(artefact) == []


async def test_a_server_by_url_is_asked_only_once_it_is_the_student_that_was_measured(artefact, tmp_path) -> None:
    server = Server()
    student = ServedStudent(artefact, tmp_path, url=server.url)
    await student.start()
    with pytest.raises(ModelError, match="does not serve s-1"):
        await student.ready(0.2)  # nobody is there
    with pytest.raises(ModelError, match="not ready"):
        await student.complete(HELLO)
    server.texts = ["quite another checkpoint"]
    async with server.serving():
        async with asyncio.timeout(20):
            while not server.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert student.base_url() is None
        server.texts = ["fine"]
        await student.ready(20)
        assert (await student.complete(HELLO)).content == "fine"
        assert student.cpu_seconds() == 0.0
    await student.close()
    assert student.base_url() is None


async def test_a_server_that_went_away_is_compared_again(artefact) -> None:
    server = Server()
    remote = RemoteServer(server.url, "s-1", artefact, look_s=0.05)
    await remote.start()
    async with server.serving():
        await remote.ready(20)
        compared = len(server.asked)
    async with asyncio.timeout(20):
        while remote.base_url() is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    async with server.serving():
        await remote.ready(20)
        assert len(server.asked) == compared + 5
    await remote.release()


@pytest.mark.usefixtures("fake_vllm")
async def test_a_replica_that_answers_otherwise_never_serves(checkpoint, tmp_path) -> None:
    folder = checkpoint()
    write_recorded(folder, [Recorded(ASKED, "something else")] * 3)
    lease = ReplicaLease(folder, tmp_path, ServeSpec("s-1"), linger_s=2.0)
    await lease.start()
    with pytest.raises(ModelError, match="3 of 3 recorded answers differ"):
        await lease.ready(20)
    assert lease.base_url() is None
    await lease.release()
    until(lambda: not processes_of(tmp_path, "s-1"))


@pytest.mark.usefixtures("fake_vllm")
async def test_a_replica_that_answers_as_before_serves(checkpoint, tmp_path) -> None:
    folder = checkpoint()
    write_recorded(folder, [Recorded(ASKED, "fine")] * 3)
    lease = ReplicaLease(folder, tmp_path, ServeSpec("s-1"), linger_s=2.0)
    await lease.start()
    assert await lease.ready(20)
    await lease.release()
    until(lambda: not processes_of(tmp_path, "s-1"))
