"""A teacher behind Anthropic's Messages API, asked in OpenAI's words.

What that API has no word for is refused by name. Three things are the same only in effect: system messages are put
before all others, one below the other; a temperature over 1 is 1, the most that it takes (a model that takes none has
its endpoint refuse it); and messages of one side in a row are one message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from stillhouse.models.chat.anthropic_replies import read_stream, read_whole
from stillhouse.models.chat.completion import Completion, OnText
from stillhouse.models.chat.posting import Posting, Price
from stillhouse.models.chat.request import ChatRequest, Message
from stillhouse.models.port import ModelError

VERSION: Final = "2023-06-01"


class AnthropicTeacher:
    """Asks one model. The key is read from the environment at the first call, and never shown."""

    def __init__(self, base_url: str, model: str, api_key_env: str, price: Price, max_output_tokens: int) -> None:
        """`price` gives the USD of a call from its tokens; `max_output_tokens` is for requests that name none."""
        self._model = model
        self._key_env = api_key_env
        self._most = max_output_tokens
        url = f"{base_url.rstrip('/')}/v1/messages"
        self._posting = Posting(url, model, self._headers, (read_whole, read_stream), price)

    @property
    def version(self) -> str:
        """The model's name, as the endpoint knows it."""
        return self._model

    async def complete(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """The answer. Raises `ModelError`, also for what cannot be translated."""
        asked = translated(request, self._model, self._most)
        if on_text is not None:
            asked["stream"] = True
        return await self._posting.complete(asked, on_text)

    async def close(self) -> None:
        """Close its connections."""
        await self._posting.close()

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self._key_env)
        return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})


def translated(request: ChatRequest, model: str, most_tokens: int) -> dict[str, Any]:
    """The body of a call of the Messages API that asks the same. Raises `ModelError` naming what has no translation."""
    no_word_for = {
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty or None,  # 0 is none
        "presence_penalty": request.presence_penalty or None,
        "reasoning_effort": request.reasoning_effort,
    }
    for name, value in no_word_for.items():
        if value is not None:
            raise _refused(name, "it has no such parameter")
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_completion_tokens or request.max_tokens or most_tokens,
        "messages": _messages(request.messages),
    }
    if system := "\n\n".join(m.text for m in request.messages if m.role in ("system", "developer")):
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = min(1.0, request.temperature)
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop is not None:
        body["stop_sequences"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if (choice := _tool_choice(request)) is not None:
        body["tool_choice"] = choice
    if (schema := _schema(request.response_format)) is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return body


def _messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    for message in messages:
        if message.name is not None:
            raise _refused("messages.name", "its messages have no names")
        if message.role in ("system", "developer"):
            continue
        # The results of all tools that were called at once belong into one message, before what the user says next.
        side = "assistant" if message.role == "assistant" else "user"
        if not said or said[-1]["role"] != side:
            said.append({"role": side, "content": []})
        said[-1]["content"] += _blocks(message)
    return said


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": message.text}]
    # A text that is empty is refused there, and says nothing here.
    blocks: list[dict[str, Any]] = [{"type": "text", "text": message.text}] if message.text else []
    for call in message.tool_calls or ():
        try:
            given = json.loads(call.function.arguments or "{}")
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise _refused("messages.tool_calls.function.arguments", "it takes JSON objects only")
        blocks.append({"type": "tool_use", "id": call.id, "name": call.function.name, "input": given})
    return blocks


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise _refused("tools", "only functions can be translated")
    if unknown := function.keys() - {"name", "description", "parameters", "strict"}:
        raise _refused(f"tools.function.{min(unknown)}", "it has no such key")
    said = {key: function[key] for key in ("name", "description", "strict") if function.get(key) is not None}
    return said | {"input_schema": function.get("parameters") or {"type": "object", "properties": {}}}


def _tool_choice(request: ChatRequest) -> dict[str, Any] | None:
    alone = {"disable_parallel_tool_use": True} if request.parallel_tool_calls is False else {}
    match request.tool_choice:
        case None:
            return {"type": "auto"} | alone if alone and request.tools else None
        case "none":
            return {"type": "none"}
        case "auto":
            return {"type": "auto"} | alone
        case "required":
            return {"type": "any"} | alone
        case {"type": "function", "function": {"name": str(name)}}:
            return {"type": "tool", "name": name} | alone
        case _:
            raise _refused("tool_choice", "only none, auto, required and a function can be translated")


def _schema(response_format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    match response_format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return schema
        case _:
            raise _refused("response_format", "only text and json_schema can be translated")


def _refused(name: str, why: str) -> ModelError:
    return ModelError(f"{name} cannot be translated to Anthropic's Messages API: {why}")
