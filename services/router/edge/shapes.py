"""Answers and errors in OpenAI's shapes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Final

from stillhouse.events import Failure, InferenceCompleted
from stillhouse.models.chat.completion import Completion

# Failure code -> HTTP status, OpenAI's error type and code.
ERRORS: Final[dict[str, tuple[int, str, str | None]]] = {
    "unknown_task": (404, "invalid_request_error", "model_not_found"),
    "bad_input": (400, "invalid_request_error", "invalid_value"),
    "too_large": (413, "invalid_request_error", "context_length_exceeded"),
    "budget": (429, "insufficient_quota", "insufficient_quota"),
    "deadline": (504, "server_error", "timeout"),
    "teacher_failed": (502, "server_error", "upstream_error"),
    "lost": (503, "server_error", "lost"),
}


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """`{"error": {...}}`."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(failure: Failure) -> tuple[int, dict[str, Any]]:
    """HTTP status and body for a request that has no answer."""
    status, kind, code = ERRORS[failure.code]
    return status, error_body(failure.message, kind, "model" if failure.code == "unknown_task" else None, code)


def headers_of(completed: InferenceCompleted, trace_id: str | None) -> dict[str, str]:
    """Who served, how sure it was, what it cost."""
    answer = completed.student if completed.served_by == "student" else completed.teacher
    said = {
        "x-request-id": completed.request_id,
        "x-stillhouse-served-by": completed.served_by,
        "x-stillhouse-reason": completed.reason,
        "x-stillhouse-model": answer.model if answer is not None else None,
        "x-stillhouse-confidence": f"{answer.confidence:.4f}" if answer is not None else None,
        "x-stillhouse-cost-usd": f"{completed.cost_usd:.8f}",
        "x-stillhouse-trace-id": trace_id,
    }
    return {name: value for name, value in said.items() if value is not None}


def headers_of_teacher(request_id: str, trace_id: str | None) -> dict[str, str]:
    """The same for an answer that is still being written: that is the teacher's, and its cost is not known yet."""
    said = {"x-request-id": request_id, "x-stillhouse-served-by": "teacher", "x-stillhouse-trace-id": trace_id}
    return {name: value for name, value in said.items() if value is not None}


def completion_of(completed: InferenceCompleted) -> Completion:
    """What an event that is no failure answers."""
    answer = completed.student if completed.served_by == "student" else completed.teacher
    if answer is None:
        return Completion(completed.output)
    return Completion.of(completed.output or "", answer.finish_reason, answer.input_tokens, answer.output_tokens)


def completion_body(completed: InferenceCompleted, said: Completion, model: str) -> dict[str, Any]:
    """A `chat.completion`."""
    message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": None}
    if said.tool_calls:
        message["tool_calls"] = [call.model_dump() for call in said.tool_calls]
    choice = {"index": 0, "message": message, "finish_reason": said.finish_reason, "logprobs": None}
    return _head(completed.request_id, model, "chat.completion") | {"choices": [choice], "usage": _usage(said)}


class Chunks:
    """The same answer as server-sent events, piece by piece."""

    def __init__(self, request_id: str, model: str, *, usage: bool) -> None:
        """`usage`: an event with it comes before the end."""
        self._head = _head(request_id, model, "chat.completion.chunk")
        self._usage = usage

    def begin(self) -> bytes:
        """Whose message it is."""
        return self._event({"role": "assistant", "content": ""})

    def text(self, piece: str) -> bytes:
        """The next piece of its text."""
        return self._event({"content": piece})

    def end(self, said: Completion) -> Iterator[bytes]:
        """Everything after the text."""
        for number, call in enumerate(said.tool_calls):
            yield self._event({"tool_calls": [{"index": number, **call.model_dump()}]})
        yield self._event({}, said.finish_reason)
        if self._usage:
            yield _event(self._head | {"choices": [], "usage": _usage(said)})
        yield b"data: [DONE]\n\n"

    def broken(self, body: dict[str, Any]) -> bytes:
        """An error in the middle of an answer, in its own shape."""
        return _event(body)

    def _event(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event(self._head | {"choices": [choice]} | ({"usage": None} if self._usage else {}))


def _head(request_id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request_id}", "object": kind, "created": int(time.time()), "model": model}


def _usage(said: Completion) -> dict[str, int]:
    asked, answered = said.input_tokens, said.output_tokens
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
