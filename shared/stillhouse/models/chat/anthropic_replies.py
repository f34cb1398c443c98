"""What Anthropic's Messages API sends back: one message, or server-sent events with pieces of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any, Final

from stillhouse.models.chat.completion import OnText
from stillhouse.models.chat.replies import NoCompletion, Reply, data_of, refuse_error
from stillhouse.models.chat.request import FunctionCall, ToolCall

# Why it stopped -> in OpenAI's words; whatever else it says is `stop`.
FINISH: Final = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
UNSAID: Final = frozenset({"thinking", "redacted_thinking"})  # blocks that are no part of the answer
MALFORMED: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def read_whole(body: bytes) -> Reply:
    """A message. Raises `NoCompletion`."""
    try:
        said: dict[str, Any] = json.loads(body)
        blocks = [{**block, "input": json.dumps(block.get("input"), ensure_ascii=False)} for block in said["content"]]
        return _reply(blocks, said.get("stop_reason"), said.get("usage") or {})
    except MALFORMED as error:
        raise NoCompletion(type(error).__name__) from None


async def read_stream(lines: AsyncIterable[bytes], on_text: OnText) -> Reply:
    """Events, line by line; each piece of text is handed on at once. Raises `NoCompletion`.

    A stream that ends without `message_stop` and without a reason to stop was cut off.
    """
    blocks: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    stop: object = None
    done = False
    async for data in data_of(lines):
        try:
            event: dict[str, Any] = json.loads(data)
            refuse_error(event)
            match event["type"]:
                case "message_start":
                    usage |= event["message"].get("usage") or {}
                case "content_block_start":
                    # The input of a tool is {} here, and comes as pieces of JSON.
                    block = {**event["content_block"], "input": ""}
                    blocks[int(event["index"])] = block
                    if block.get("text"):
                        on_text(str(block["text"]))
                case "content_block_delta":
                    _add(blocks[int(event["index"])], event["delta"], on_text)
                case "message_delta":
                    stop = event["delta"].get("stop_reason") or stop
                    usage |= {key: value for key, value in (event.get("usage") or {}).items() if value is not None}
                case "message_stop":
                    done = True
        except MALFORMED as error:
            raise NoCompletion(type(error).__name__) from None
        if done:
            break
    if not done and stop is None:
        raise NoCompletion("the stream ended too early")
    try:
        return _reply((block for _, block in sorted(blocks.items())), stop, usage)
    except MALFORMED as error:
        raise NoCompletion(type(error).__name__) from None


def _add(block: dict[str, Any], delta: dict[str, Any], on_text: OnText) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] = str(block.get("text") or "") + str(delta["text"])
            if delta["text"]:
                on_text(str(delta["text"]))
        case "input_json_delta":
            block["input"] += str(delta["partial_json"])


def _reply(blocks: Iterable[Mapping[str, Any]], stop: object, usage: Mapping[str, Any]) -> Reply:
    """`blocks` have the input of a tool as JSON text."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    for block in blocks:
        match block["type"]:
            case "text":
                texts.append(str(block.get("text") or ""))
            case "tool_use":
                function = FunctionCall(name=block["name"], arguments=block["input"] or "{}")
                calls.append(ToolCall(id=block["id"], function=function))
            case kind if kind not in UNSAID:
                raise NoCompletion(f"a block of kind {str(kind)[:50]}")
    content = "".join(texts) if texts or not calls else None
    # What was read from a cache, or put there, was asked all the same.
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    asked = sum(int(usage.get(kind) or 0) for kind in kinds)
    finish = FINISH.get(stop) if isinstance(stop, str) else None
    return Reply(content, tuple(calls), finish, asked, int(usage.get("output_tokens") or 0))
