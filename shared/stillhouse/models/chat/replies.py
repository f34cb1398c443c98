"""What an OpenAI-compatible endpoint sends back: one JSON object, or server-sent events with pieces of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from stillhouse.models.chat.completion import OnText
from stillhouse.models.chat.request import FunctionCall, ToolCall

MOST_BYTES: Final = 16_000_000  # of an answer: what is larger is no answer
MOST_MARGIN: Final = 30.0  # of a token; a grammar that forbids every other one would make it endless


class NoCompletion(Exception):
    """What came is no completion; the message says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The first choice, as the endpoint gave it."""

    content: str | None
    tool_calls: tuple[ToolCall, ...]
    finish: object
    input_tokens: int
    output_tokens: int
    log_probs: tuple[float, ...] = ()  # of the chosen tokens
    margins: tuple[float, ...] = ()  # chosen minus the best other's


def read_whole(body: bytes) -> Reply:
    """A `chat.completion`. Raises `NoCompletion`."""
    try:
        said: dict[str, Any] = json.loads(body)
        choice = said["choices"][0]
        message = choice["message"]
        calls = tuple(ToolCall.model_validate(call) for call in message.get("tool_calls") or ())
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            raise TypeError("content is no text")
        return Reply(content, calls, choice.get("finish_reason"), *_usage(said), *_log_probs(choice))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise NoCompletion(type(error).__name__) from None


async def data_of(lines: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events, as long as all of them are no more than `MOST_BYTES`. Raises `NoCompletion`."""
    size = 0
    try:
        async for line in lines:
            size += len(line)
            if size > MOST_BYTES:
                raise NoCompletion(f"it is larger than {MOST_BYTES:,} bytes")
            if line.startswith(b"data:"):
                yield line[5:].strip()
    except ValueError:  # aiohttp's, of a line longer than its buffer
        raise NoCompletion("an event is too long") from None


def refuse_error(said: dict[str, Any]) -> None:
    """Raises `NoCompletion` with the endpoint's words where an event of a stream is an error."""
    if (error := said.get("error")) is not None:
        raise NoCompletion(str(error.get("message", "error") if isinstance(error, dict) else error)[:200])


async def read_stream(lines: AsyncIterable[bytes], on_text: OnText) -> Reply:
    """`chat.completion.chunk`s, line by line; each piece of text is handed on at once. Raises `NoCompletion`.

    A stream that ends without `[DONE]` and without a finish reason was cut off.
    """
    pieces: list[str] = []
    calls: dict[int, dict[str, str]] = {}
    finish: object = None
    usage, done = (0, 0), False
    async for data in data_of(lines):
        if data == b"[DONE]":
            done = True
            break
        try:
            said: dict[str, Any] = json.loads(data)
            refuse_error(said)
            usage = _usage(said) if said.get("usage") else usage
            for choice in said["choices"][:1]:
                delta = choice.get("delta") or {}
                if delta.get("content"):
                    pieces.append(str(delta["content"]))
                    on_text(pieces[-1])
                for call in delta.get("tool_calls") or ():
                    _add(calls.setdefault(int(call.get("index", 0)), {"id": "", "name": "", "arguments": ""}), call)
                finish = choice.get("finish_reason") or finish
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise NoCompletion(type(error).__name__) from None
    if not done and finish is None:
        raise NoCompletion("the stream ended too early")
    said_calls = tuple(
        ToolCall(id=call["id"], function=FunctionCall(name=call["name"], arguments=call["arguments"]))
        for _, call in sorted(calls.items())
    )
    return Reply("".join(pieces) if pieces or not said_calls else None, said_calls, finish, *usage)


def _add(call: dict[str, str], piece: dict[str, Any]) -> None:
    call["id"] = call["id"] or str(piece.get("id") or "")
    function = piece.get("function") or {}
    for key in ("name", "arguments"):
        call[key] += str(function.get(key) or "")


def _log_probs(choice: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Log-probability and margin of every token; both empty where none are told.

    Where an answer is held to a grammar, servers may tell what is left after it: a forced token is then sure.
    """
    log_probs, margins = [], []
    for token in (choice.get("logprobs") or {}).get("content") or ():
        chosen = float(token["logprob"])
        # Two tokens may read the same; their bytes tell them apart.
        others = [
            float(other["logprob"])
            for other in token.get("top_logprobs") or ()
            if (other["token"], other.get("bytes")) != (token["token"], token.get("bytes"))
        ]
        log_probs.append(chosen)
        if others:
            margins.append(min(MOST_MARGIN, chosen - max(others)))
    return tuple(log_probs), tuple(margins) if len(margins) == len(log_probs) else ()


def _usage(said: dict[str, Any]) -> tuple[int, int]:
    usage = said.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
