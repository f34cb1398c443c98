"""A student that writes, behind vLLM: one attempt for each request, for the teacher is what it falls back on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from stillhouse.models.chat.completion import Completion, OnText, finish_of
from stillhouse.models.chat.replies import NoCompletion, read_whole
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.posting import BaseUrl, Posting

T = TypeVar("T")


class VllmStudent:
    """Asks the replica of one student, by a lease's address or a fixed one. Every failure is a `ModelError`.

    An answer that was cut, or that is not the JSON that its schema asks for, is a failure too: the teacher answers.
    """

    def __init__(
        self,
        student_id: str,
        base_url: BaseUrl,
        *,
        max_tokens: int = 512,
        response_schema: Mapping[str, Any] | None = None,
        concurrency: int = 16,
        timeout_s: float = 60.0,
    ) -> None:
        """`max_tokens` caps every answer; `response_schema` (JSON Schema) holds where a request names no format."""
        self._id = student_id
        self._base_url = base_url
        self._max_tokens = max_tokens
        self._format: dict[str, Any] | None = None
        if response_schema is not None:
            named = {"name": "answer", "schema": dict(response_schema), "strict": True}
            self._format = {"type": "json_schema", "json_schema": named}
        self._server = Posting(student_id, base_url, concurrency=concurrency, timeout_s=timeout_s)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def version(self) -> str:
        """The student's id."""
        return self._id

    async def complete(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """The student's answer with its log-probabilities. Raises `ModelError`.

        `on_text` gets it in one piece: whether a student may answer is only known at its end.
        """
        asked = self.asked(request)
        started = time.perf_counter()
        reply = await self._ask(asked, read_whole)
        if reply.finish == "length":
            raise self._invalid(f"cut after {reply.output_tokens} tokens")
        if (schema := _schema_of(asked.get("response_format"))) is not None and not reply.tool_calls:
            self._check(reply.content, schema)
        if on_text is not None and reply.content:
            on_text(reply.content)
        return Completion(
            content=reply.content,
            tool_calls=reply.tool_calls,
            finish_reason=finish_of(reply.finish, calls=bool(reply.tool_calls)),
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            latency_ms=1000 * (time.perf_counter() - started),
            log_prob=sum(reply.log_probs) / len(reply.log_probs) if reply.log_probs else None,
            log_probs=reply.log_probs,
            margins=reply.margins,
        )

    async def sample(self, request: ChatRequest, n: int, temperature: float) -> list[str]:
        """`n` other answers, drawn at `temperature`; those that were cut are left out. Raises `ModelError`."""
        asked = {
            key: value for key, value in self.asked(request).items() if key not in ("logprobs", "top_logprobs", "top_p")
        }
        return await self._ask(asked | {"n": n, "temperature": temperature, "seed": 0}, _texts)

    def asked(self, request: ChatRequest) -> dict[str, Any]:
        """The body that asks vLLM for one answer."""
        asked = request.upstream(self._id)
        named = [asked.pop(key) for key in ("max_tokens", "max_completion_tokens") if key in asked]
        asked["max_tokens"] = min([self._max_tokens, *named])
        asked.setdefault("temperature", 0)
        if self._format is not None and "tools" not in asked:
            asked.setdefault("response_format", self._format)
        return asked | {"logprobs": True, "top_logprobs": 2}

    async def close(self, drain_s: float = 0.0) -> None:
        """Close its connections; what is under way may take `drain_s` seconds more."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_s)
        await self._server.close()

    async def _ask(self, asked: Mapping[str, Any], read: Callable[[bytes], T]) -> T:
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._server.post("/chat/completions", asked, read)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    def _check(self, content: str | None, schema: Mapping[str, Any]) -> None:
        try:
            said = json.loads(content or "")
        except (ValueError, RecursionError):
            raise self._invalid("no JSON") from None
        if schema.get("type") == "object" and not isinstance(said, dict):
            raise self._invalid("no JSON object")
        missing = [key for key in schema.get("required") or () if isinstance(said, dict) and key not in said]
        if missing:
            raise self._invalid(f"the key {missing[0]!r} is missing")

    def _invalid(self, why: str) -> ModelError:
        return ModelError(f"invalid output of the student {self._id} ({why}): escalates to the teacher")


def _texts(body: bytes) -> list[str]:
    """The texts of all choices that came to their end. Raises `NoCompletion`."""
    try:
        choices = json.loads(body)["choices"]
        return [str(one["message"]["content"] or "") for one in choices if one.get("finish_reason") == "stop"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NoCompletion(type(error).__name__) from None


def _schema_of(response_format: object) -> Mapping[str, Any] | None:
    if not isinstance(response_format, dict):
        return None
    match response_format.get("type"):
        case "json_schema":
            named = response_format.get("json_schema")
            schema = named.get("schema") if isinstance(named, dict) else None
            return schema if isinstance(schema, dict) else {}
        case "json_object":
            return {"type": "object"}
        case _:
            return None
