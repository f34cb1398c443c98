"""Anthropic's Messages API: what is asked in OpenAI's words arrives in its own, and what it answers comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.models.chat.anthropic import translated
from stillhouse.models.chat.anthropic_replies import read_stream, read_whole
from stillhouse.models.chat.completion import Completion
from stillhouse.models.chat.replies import NoCompletion, Reply
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"name": "weather", "description": "Today's.", "parameters": {"type": "object", "properties": {"c": {}}}}
USAGE = {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": None, "output_tokens": 2}


def asked(**fields: Any) -> dict[str, Any]:
    return translated(ChatRequest.model_validate({"messages": HELLO} | fields), "claude", 100)


def block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_one_text_is_one_message_and_the_longest_answer_is_always_named() -> None:
    assert asked() == {
        "model": "claude",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": [block("hello")]}],
    }
    assert asked(max_tokens=7)["max_tokens"] == 7
    assert asked(max_tokens=7, max_completion_tokens=8)["max_tokens"] == 8


def test_a_conversation_with_tools() -> None:
    call = {"id": "1", "function": {"name": "weather", "arguments": '{"c": "Bern"}'}}
    body = asked(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "", "tool_calls": [call, call | {"id": "2"}]},
            {"role": "tool", "tool_call_id": "1", "content": "rain"},
            {"role": "tool", "tool_call_id": "2", "content": "sun"},
            {"role": "user", "content": "well?"},
            {"role": "developer", "content": "In French."},
        ],
        tools=[
            {"type": "function", "function": WEATHER | {"strict": True}},
            {"type": "function", "function": {"name": "f"}},
        ],
    )
    assert body["system"] == "Be brief.\n\nIn French."
    given = {"c": "Bern"}
    assert body["messages"] == [
        {"role": "user", "content": [block("ab")]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": name, "name": "weather", "input": given} for name in "12"],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "rain"},
                {"type": "tool_result", "tool_use_id": "2", "content": "sun"},
                block("well?"),
            ],
        },
    ]
    assert body["tools"] == [
        {"name": "weather", "description": "Today's.", "strict": True, "input_schema": WEATHER["parameters"]},
        {"name": "f", "input_schema": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"temperature": 1.7}, {"temperature": 1.0}),
        ({"stop": "x"}, {"stop_sequences": ["x"]}),
        ({"stop": ["x", "y"]}, {"stop_sequences": ["x", "y"]}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        ),
        ({"tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"tool_choice": {"type": "none"}}),
        ({"tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
            {"tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}},
        ),
        ({"parallel_tool_calls": False}, {}),
        ({"parallel_tool_calls": True, "frequency_penalty": 0.0, "presence_penalty": 0.0}, {}),
    ],
)
def test_parameters_that_have_a_translation(fields, changes) -> None:
    assert asked(**fields) == asked() | changes


def test_calls_one_at_a_time_are_asked_for_where_there_are_tools() -> None:
    body = asked(tools=[{"type": "function", "function": WEATHER}], parallel_tool_calls=False)
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"seed": 0}, "seed"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": -1.0}, "presence_penalty"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": [{"type": "function", "function": WEATHER | {"colour": 1}}]}, "tools.function.colour"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ada"}]}, "messages.name"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "3"}}]}
                ]
            },
            "messages.tool_calls.function.arguments",
        ),
    ],
)
def test_what_it_has_no_word_for_is_refused_by_name(fields, named) -> None:
    with pytest.raises(ModelError, match=f"^{named} cannot be translated to Anthropic's Messages API: "):
        asked(**fields)


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(min_size=1)), min_size=1))
def test_no_text_is_lost_and_sides_take_turns(said: list[tuple[str, str]]) -> None:
    body = asked(messages=[{"role": role, "content": text} for role, text in said])
    sides = [message["role"] for message in body["messages"]]
    assert all(one != other for one, other in pairwise(sides))
    texts = [(message["role"], one["text"]) for message in body["messages"] for one in message["content"]]
    assert texts == [(role, text) for role, text in said if role != "system"]
    assert body.get("system", "") == "\n\n".join(text for role, text in said if role == "system")


def whole(content: list[dict[str, Any]], stop: str = "end_turn") -> Reply:
    return read_whole(json.dumps({"type": "message", "content": content, "stop_reason": stop, "usage": USAGE}).encode())


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", None),
        ("stop_sequence", None),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "tool_calls"),
    ],
)
def test_why_it_stopped(stop, finish) -> None:
    assert whole([block("fine")], stop) == Reply("fine", (), finish, 7, 2)


def test_texts_and_calls_come_back_and_thoughts_do_not() -> None:
    call = {"type": "tool_use", "id": "1", "name": "weather", "input": {"c": "Bern"}}
    found = whole([{"type": "thinking", "thinking": "hm", "signature": "s"}, block("a"), block("b"), call], "tool_use")
    assert found.content == "ab"
    [said] = found.tool_calls
    assert (said.id, said.function.name, json.loads(said.function.arguments)) == ("1", "weather", {"c": "Bern"})
    assert whole([call], "tool_use").content is None
    assert (whole([]).content, whole([], "refusal").finish) == ("", "content_filter")


def test_what_it_called_can_be_asked_again() -> None:
    call = {"type": "tool_use", "id": "1", "name": "weather", "input": {"c": "Bern"}}
    found = whole([call], "tool_use")
    output = Completion(found.content, found.tool_calls, "tool_calls").as_output()
    again = [one.model_dump() for one in Completion.of(output, "tool_calls").tool_calls]
    body = asked(messages=[*HELLO, {"role": "assistant", "tool_calls": again}])
    assert body["messages"][1]["content"][0] | {"id": "1"} == call


def event(body: Any) -> list[bytes]:
    kind = body.get("type") if isinstance(body, dict) else None
    return [f"event: {kind}\n".encode(), b"data: " + json.dumps(body).encode() + b"\n", b"\n"]


def streamed_block(index: int, start: dict[str, Any], deltas: Sequence[dict[str, Any]]) -> list[bytes]:
    return [
        *event({"type": "content_block_start", "index": index, "content_block": start}),
        *(line for delta in deltas for line in event({"type": "content_block_delta", "index": index, "delta": delta})),
        *event({"type": "content_block_stop", "index": index}),
    ]


async def streamed(lines: Sequence[bytes]) -> tuple[Reply, list[str]]:
    async def each() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    heard: list[str] = []
    return await read_stream(each(), heard.append), heard


START = event({"type": "message_start", "message": {"usage": USAGE | {"output_tokens": 1}}}) + event({"type": "ping"})


def end(stop: str) -> list[bytes]:
    said = {
        "type": "message_delta",
        "delta": {"stop_reason": stop},
        "usage": {"output_tokens": 2, "input_tokens": None},
    }
    return event(said) + event({"type": "message_stop"})


@given(st.lists(st.text(min_size=1, max_size=9), max_size=5))
async def test_pieces_make_the_whole(pieces: list[str]) -> None:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    found, heard = await streamed([*START, *streamed_block(0, block(""), deltas), *end("max_tokens")])
    assert heard == pieces
    assert found == whole([block("".join(pieces))], "max_tokens")


async def test_calls_and_thoughts_come_in_pieces_too() -> None:
    start = {"type": "tool_use", "id": "1", "name": "weather", "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in ("", '{"c": ', '"Bern"}')]
    thought = streamed_block(0, {"type": "thinking", "thinking": ""}, [{"type": "thinking_delta", "thinking": "hm"}])
    called = streamed_block(1, start, pieces) + streamed_block(2, start | {"id": "2"}, [])
    found, heard = await streamed([*START, *thought, *called, *end("tool_use")])
    assert (found.content, heard, found.finish) == (None, [], "tool_calls")
    assert [(call.id, call.function.arguments) for call in found.tool_calls] == [("1", '{"c": "Bern"}'), ("2", "{}")]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "ended too early"),
        (START + streamed_block(0, block("It is"), []), "ended too early"),
        (
            START + event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            "Overloaded",
        ),
        (streamed_block(0, {"type": "server_tool_use"}, []) + end("end_turn"), "a block of kind server_tool_use"),
        ([b"data: {\n"], "JSONDecodeError"),
        (event([]), "AttributeError"),
        (event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}), "KeyError"),
        (event({}), "KeyError"),
    ],
)
async def test_a_stream_that_is_none(lines, said) -> None:
    with pytest.raises(NoCompletion, match=said):
        await streamed(lines)


KEYS = ["type", "content", "text", "index", "delta", "content_block", "message", "usage", "stop_reason", "x"]
KINDS = ["text", "tool_use", "message_start", "content_block_start", "content_block_delta", "message_delta"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)


@given(JSON)
async def test_whatever_it_says_is_an_answer_or_none(body: Any) -> None:
    for read in (lambda: read_whole(json.dumps(body).encode()), lambda: streamed([*event(body), *end("end_turn")])):
        try:
            found = read()
            await found if not isinstance(found, Reply) else None
        except NoCompletion:
            pass
