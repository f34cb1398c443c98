"""The student behind vLLM, against a server that speaks vLLM's answers and everything that goes wrong with them."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from aiohttp import web

from stillhouse.embedded.ports import free_port
from stillhouse.models.chat.completion import ChatModel
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.posting import FAILURES
from stillhouse.models.vllm.student import VllmStudent
from tests.integration.serving.fake_vllm import answer

SCHEMA = {"type": "object", "properties": {"intent": {"type": "string"}}, "required": ["intent"]}
HELLO = ChatRequest.of("text", "hello")


class Server:
    """Answers with `reply`, a body or a handler; remembers what it was asked."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[dict] = []
        self.reply: object = answer("s-1")
        self.status = 200
        self.at_once = 0
        self.most_at_once = 0

    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if callable(self.reply):
                return await self.reply(request)
            return web.json_response(self.reply, status=self.status)
        finally:
            self.at_once -= 1


@pytest.fixture
async def server():
    said = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", said.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", said.port).start()
    yield said
    await runner.cleanup()


@pytest.fixture
async def student(server):
    model = VllmStudent("s-1", server.url, max_tokens=40, timeout_s=5)
    yield model
    await model.close()


async def test_an_answer_comes_with_its_log_probabilities(server, student) -> None:
    assert isinstance(student, ChatModel)
    assert student.version == "s-1"
    pieces: list[str] = []
    said = await student.complete(HELLO, pieces.append)
    assert (said.content, said.finish_reason, said.input_tokens, said.output_tokens) == ("fine", "stop", 9, 2)
    assert said.log_probs == (-0.1, -0.3)
    assert said.margins == pytest.approx((2.4, -0.1))
    assert said.log_prob == pytest.approx(-0.2)
    assert said.latency_ms > 0
    assert pieces == ["fine"]


async def test_what_is_asked(server, student) -> None:
    await student.complete(HELLO)
    asked = server.asked[-1]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("s-1", 0, 40)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)
    assert "response_format" not in asked
    await student.complete(ChatRequest.of("text", "x").model_copy(update={"temperature": 0.5, "max_tokens": 7}))
    assert (server.asked[-1]["temperature"], server.asked[-1]["max_tokens"]) == (0.5, 7)
    await student.complete(HELLO.model_copy(update={"max_completion_tokens": 4000}))
    assert server.asked[-1]["max_tokens"] == 40, "the student's own cap holds"
    assert "max_completion_tokens" not in server.asked[-1]


async def test_a_schema_is_asked_for_and_checked(server) -> None:
    student = VllmStudent("s-1", server.url, response_schema=SCHEMA)
    server.reply = answer("s-1", '{"intent": "refund"}')
    assert (await student.complete(HELLO)).content == '{"intent": "refund"}'
    assert server.asked[-1]["response_format"]["json_schema"]["schema"] == SCHEMA
    for text, why in [("fine", "no JSON"), ("[1]", "no JSON object"), ('{"a": 1}', "the key 'intent' is missing")]:
        server.reply = answer("s-1", text)
        with pytest.raises(ModelError, match="escalates to the teacher") as refused:
            await student.complete(HELLO)
        assert why in str(refused.value)
    own = HELLO.model_copy(update={"response_format": {"type": "text"}})
    server.reply = answer("s-1", "fine")
    assert (await student.complete(own)).content == "fine", "a request's own format comes first"
    assert server.asked[-1]["response_format"] == {"type": "text"}
    await student.close()


async def test_a_cut_answer_escalates(server, student) -> None:
    server.reply = answer("s-1")
    server.reply["choices"][0]["finish_reason"] = "length"
    with pytest.raises(ModelError, match="cut after 2 tokens"):
        await student.complete(HELLO)


async def test_a_refusal_is_told_and_not_tried_again(server, student) -> None:
    server.status, server.reply = 400, {"error": {"message": "max_tokens is too large", "type": "BadRequestError"}}
    for _ in range(2 * FAILURES):
        with pytest.raises(ModelError, match=r"status 400 \(max_tokens is too large\)"):
            await student.complete(HELLO)
    assert len(server.asked) == 2 * FAILURES, "one attempt each, and a request's own fault is not the student's"


async def _broken(request: web.Request) -> web.Response:
    return web.Response(body=b'{"choices": [', content_type="application/json")


async def _no_logprobs(request: web.Request) -> web.Response:
    body = answer("s-1")
    body["choices"][0]["logprobs"] = {"content": [{"token": "a"}]}
    return web.json_response(body)


async def _cut_off(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Length": "1000"})
    await reply.prepare(request)
    await reply.write(json.dumps(answer("s-1")).encode()[:50])
    assert request.transport is not None
    request.transport.abort()
    return reply


async def _slow(request: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.json_response({})


async def _failing(request: web.Request) -> web.Response:
    return web.json_response({"error": {"message": "engine is dead"}}, status=500)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (_broken, "nothing usable"),
        (_no_logprobs, "nothing usable"),
        (_cut_off, "could not be asked"),
        (_slow, r"could not be asked \(.*Timeout"),
        (_failing, r"status 500 \(engine is dead\)"),
    ],
)
async def test_whatever_breaks_is_one_error_and_after_five_nobody_asks(server, reply, why) -> None:
    student = VllmStudent("s-1", server.url, timeout_s=0.3)
    server.reply = reply
    for _ in range(FAILURES):
        with pytest.raises(ModelError, match=why):
            await student.complete(HELLO)
    begun = time.monotonic()
    with pytest.raises(ModelError, match="in a row"):
        await student.complete(HELLO)
    assert time.monotonic() - begun < 0.1
    assert len(server.asked) == FAILURES
    await student.close()


async def test_nobody_is_there_or_it_is_not_ready(student) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    gone = VllmStudent("s-1", lambda: nowhere)
    with pytest.raises(ModelError, match="could not be asked"):
        await gone.complete(HELLO)
    await gone.close()
    waiting = VllmStudent("s-1", lambda: None)
    for _ in range(2 * FAILURES):
        with pytest.raises(ModelError, match="is not ready"):
            await waiting.complete(HELLO)


async def test_no_more_than_allowed_ask_at_once(server) -> None:
    async def a_moment(request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.json_response(answer("s-1"))

    server.reply = a_moment
    student = VllmStudent("s-1", server.url, concurrency=3)
    await asyncio.gather(*(student.complete(HELLO) for _ in range(10)))
    assert server.most_at_once == 3
    await student.close()


async def test_who_goes_away_leaves_the_student_as_it_was(server, student) -> None:
    server.reply = _slow
    for _ in range(2 * FAILURES):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await student.complete(HELLO)
    server.reply = answer("s-1")
    assert (await student.complete(HELLO)).content == "fine"
