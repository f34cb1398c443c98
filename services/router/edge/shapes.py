"""Answers and errors in OpenAI's shapes."""

from __future__ import annotations

import json
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


def completion_body(completed: InferenceCompleted, said: Completion, model: str) -> dict[str, Any]:
    """A `chat.completion`."""
    message: dict[str, Any] = {"role": "assistant", "content": said.content, "refusal": None}
    if said.tool_calls:
        message["tool_calls"] = [call.model_dump() for call in said.tool_calls]
    choice = {"index": 0, "message": message, "finish_reason": said.finish_reason, "logprobs": None}
    return _head(completed, model, "chat.completion") | {"choices": [choice], "usage": _usage(said)}


def chunks(completed: InferenceCompleted, said: Completion, model: str, *, usage: bool) -> Iterator[bytes]:
    """The same as server-sent events."""
    head = _head(completed, model, "chat.completion.chunk")

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event(head | {"choices": [choice]} | ({"usage": None} if usage else {}))

    yield event({"role": "assistant", "content": ""})
    if said.content:
        yield event({"content": said.content})
    for number, call in enumerate(said.tool_calls):
        yield event({"tool_calls": [{"index": number, **call.model_dump()}]})
    yield event({}, said.finish_reason)
    if usage:
        yield _event(head | {"choices": [], "usage": _usage(said)})
    yield b"data: [DONE]\n\n"


def _head(completed: InferenceCompleted, model: str, kind: str) -> dict[str, Any]:
    created = int(completed.time.timestamp())
    return {"id": f"chatcmpl-{completed.request_id}", "object": kind, "created": created, "model": model}


def _usage(said: Completion) -> dict[str, int]:
    asked, answered = said.input_tokens, said.output_tokens
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
