"""A teacher of kind `anthropic` over HTTP, against a stand-in of the Messages API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stillhouse.models.chat.completion import ChatModel
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.chat.teachers import chat_teacher
from stillhouse.models.port import ModelError
from stillhouse.tasks import AnthropicEndpoint, load_task
from tests.integration.models.messages_api import StandIn, refusal

TASK = """
[task]
name = "write"
kind = "generate"

[teacher]
kind = "anthropic"
base_url = "{url}"
model = "claude"
api_key_env = "TEST_ANTHROPIC_KEY"
usd_per_call = 0.01
max_output_tokens = 321
"""
HELLO = ChatRequest.of("text", "hello")


@pytest.fixture
async def api(monkeypatch) -> AsyncIterator[StandIn]:
    monkeypatch.setenv("TEST_ANTHROPIC_KEY", "secret")
    async with StandIn().serving() as serving:
        yield serving


@pytest.fixture
async def teacher(api, tmp_path) -> AsyncIterator[ChatModel]:
    path = tmp_path / "write.toml"
    path.write_text(TASK.format(url=f"{api.url}/"))
    task = load_task(path)
    assert isinstance(task.teacher, AnthropicEndpoint)
    teacher = chat_teacher(task)
    yield teacher
    await teacher.close()


async def test_a_request_goes_there_in_its_words_and_comes_back(api, teacher) -> None:
    said = await teacher.complete(HELLO)
    assert (said.content, said.finish_reason, said.input_tokens, said.output_tokens) == ("fine", "stop", 11, 7)
    assert (said.cost_usd, said.latency_ms > 0, teacher.version) == (0.01, True, "claude")
    message = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    assert api.asked == [{"model": "claude", "max_tokens": 321, "messages": [message]}]
    [headers] = api.headers
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("secret", "2023-06-01")
    assert (headers["content-type"], "authorization" in headers) == ("application/json", False)


async def test_a_stream_is_the_same_answer_in_pieces(api, teacher) -> None:
    heard: list[str] = []
    said = await teacher.complete(HELLO, heard.append)
    assert heard == ["fi", "ne"]
    assert (said.content, said.finish_reason, said.input_tokens, said.output_tokens) == ("fine", "stop", 11, 7)
    assert api.asked[0]["stream"] is True


async def test_a_stream_that_breaks_off_is_not_asked_for_again(api, teacher) -> None:
    api.cut = True
    heard: list[str] = []
    with pytest.raises(ModelError, match=r"answered with no completion \(the stream ended too early\)"):
        await teacher.complete(HELLO, heard.append)
    assert (heard, len(api.asked)) == (["fi", "ne"], 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_that_pass_are_tried_again(api, teacher, stream) -> None:
    api.before = [refusal(429, "rate_limit_error", "slow down"), refusal(529, "overloaded_error", "Overloaded")]
    heard: list[str] = []
    said = await teacher.complete(HELLO, heard.append if stream else None)
    assert (said.content, len(api.asked)) == ("fine", 3)
    api.before = [refusal(529, "overloaded_error", "Overloaded") for _ in range(3)]
    with pytest.raises(ModelError, match=r"the teacher claude answered with status 529 \(Overloaded\), 3 times"):
        await teacher.complete(HELLO)


async def test_refusals_that_stay_are_told_at_once(api, teacher) -> None:
    api.before = [refusal(401, "authentication_error", "invalid x-api-key")]
    with pytest.raises(ModelError, match=r"refused with status 401 \(invalid x-api-key\)"):
        await teacher.complete(HELLO)
    assert len(api.asked) == 1
    with pytest.raises(ModelError, match="seed cannot be translated"):
        await teacher.complete(HELLO.model_copy(update={"seed": 1}))
    assert len(api.asked) == 1
