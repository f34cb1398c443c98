"""Replies of endpoints: whole or in pieces the same, and whatever else comes is no completion, in one word."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.models.chat.replies import NoCompletion, Reply, read_stream, read_whole

USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def event(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n"


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


async def streamed(lines: Sequence[bytes]) -> tuple[Reply, list[str]]:
    async def each() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    heard: list[str] = []
    return await read_stream(each(), heard.append), heard


@given(st.lists(st.text(min_size=1, max_size=9), max_size=5))
async def test_pieces_make_the_whole(pieces: list[str]) -> None:
    lines = [b": a comment\n", b"\n", *(chunk({"content": piece}) for piece in pieces), chunk({}, "length")]
    found, heard = await streamed([*lines, event({"choices": [], "usage": USAGE}), b"data: [DONE]\n"])
    assert heard == pieces
    message = {"content": "".join(pieces)}
    whole = read_whole(
        json.dumps({"choices": [{"message": message, "finish_reason": "length"}], "usage": USAGE}).encode()
    )
    assert found == whole


async def test_calls_of_tools_come_in_pieces_too() -> None:
    first = {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": ""}}]}
    second = {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}}]}
    third = {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}
    found, heard = await streamed([chunk(first), chunk(second), chunk(third), chunk({}, "tool_calls")])
    assert (found.content, heard) == (None, [])
    assert [(call.id, call.function.name, call.function.arguments) for call in found.tool_calls] == [
        ("a", "f", '{"x": 1}'),
        ("b", "g", ""),
    ]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([chunk({"content": "a"})], "ended too early"),
        ([], "ended too early"),
        ([event({"error": {"message": "overloaded"}})], "overloaded"),
        ([b"data: {\n"], "JSONDecodeError"),
        ([event([])], "AttributeError"),
        ([event({"choices": 3})], "TypeError"),
    ],
)
async def test_a_stream_that_is_none(lines, said) -> None:
    with pytest.raises(NoCompletion, match=said):
        await streamed(lines)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "delta", "content", "tool_calls", "usage", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
async def test_whatever_an_endpoint_says_is_an_answer_or_none(body: Any) -> None:
    for read in (lambda: read_whole(json.dumps(body).encode()), lambda: streamed([event(body), b"data: [DONE]\n"])):
        try:
            found = read()
            await found if not isinstance(found, Reply) else None
        except NoCompletion:
            pass
