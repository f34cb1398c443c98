"""The HTTP side: routes, keys, limits. What it does with a request is `Intake.ask`, as for one of the topic."""

from __future__ import annotations

import asyncio
import hmac
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError
from pydantic import SecretStr, ValidationError
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from services.router.edge.asked import Asked, BadBody, read_body
from services.router.edge.reranking import Reranking
from services.router.edge.shapes import (
    Chunks,
    completion_body,
    completion_of,
    error_body,
    error_of,
    headers_of,
    headers_of_teacher,
)
from stillhouse.bus import new_traceparent
from stillhouse.events import MAX_RECORD_BYTES, InferenceCompleted, InferenceRequested
from stillhouse.models.chat.completion import OnText
from stillhouse.tasks import Task
from stillhouse.telemetry.tracing import span_context_of

BODY_S: Final = 20.0  # a client that sends its body more slowly holds a place of others
LONGEST_MS: Final = 600_000  # a client of HTTP waits; it is never parked
EVENTS: Final = "text/event-stream"
UNAVAILABLE: Final = error_body("the answer could not be recorded; try again.", "server_error", code="unavailable")

# Request, traceparent, who takes its pieces as they come, whether the same request may come again.
Ask = Callable[[InferenceRequested, str, OnText | None, bool], Coroutine[Any, Any, InferenceCompleted]]

log = structlog.get_logger()


class Edge:
    """Turns HTTP into requests and answers into HTTP."""

    def __init__(self, tasks: Mapping[str, Task], ask: Ask, keys: Sequence[SecretStr], most_at_once: int) -> None:
        """`ask` answers a request and raises where its answer could not be written. No `keys`: nobody is asked."""
        self._tasks = tasks
        self._ask = ask
        self._reranking = Reranking(tasks, ask, _body)
        self._keys = [key.get_secret_value().encode() for key in keys]
        self._most = most_at_once
        self._open = 0

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._completions, methods=["POST"]),
                Route("/v1/rerank", self._rerank, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
            ],
            exception_handlers={404: _nothing_there, 405: _nothing_there},
        )

    async def _completions(self, request: Request) -> Response:
        return await self._limited(request, self._answer)

    async def _rerank(self, request: Request) -> Response:
        return await self._limited(request, self._reranking.answer)

    async def _limited(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if self._open >= self._most:
            busy = error_body(
                f"{self._most} requests are being answered; try again.", "server_error", code="overloaded"
            )
            return JSONResponse(busy, 503, {"retry-after": "1"})
        self._open += 1
        try:
            return await answer(request)
        finally:
            self._open -= 1

    async def _answer(self, request: Request) -> Response:
        try:
            asked = read_body(await _body(request))
            key = request.headers.get("idempotency-key")
            event = self._event(asked, key)
        except BadBody as error:
            status = 413 if error.code == "request_too_large" else 400
            return JSONResponse(error_body(str(error), "invalid_request_error", error.param, error.code), status)
        except ClientDisconnect:
            return Response(status_code=499)
        except TimeoutError:
            late = error_body(f"the body did not come within {BODY_S:g} s; send it again.", "invalid_request_error")
            return JSONResponse(late, 408, {"connection": "close"})
        given = request.headers.get("traceparent")
        traceparent = given if given is not None and span_context_of(given) is not None else new_traceparent()
        chunks = Chunks(event.id, asked.task_key.removeprefix("default/"), usage=asked.usage)
        try:
            if asked.stream:
                pieces: asyncio.Queue[str | None] = asyncio.Queue()  # None: the answer is there, or there is none
                asking = asyncio.create_task(self._ask(event, traceparent, pieces.put_nowait, bool(key)))
                asking.add_done_callback(lambda _: pieces.put_nowait(None))
                if (first := await pieces.get()) is not None:
                    said_by = headers_of_teacher(event.id, _trace_id(traceparent))
                    coming = _as_it_comes(chunks, first, pieces, asking)
                    return StreamingResponse(coming, headers=said_by, media_type=EVENTS)
                completed = await asking
            else:
                completed = await self._ask(event, traceparent, None, bool(key))
        except (KafkaError, RedisError, OSError) as error:
            log.warning("edge_not_answered", event_id=event.id, error=f"{type(error).__name__}: {error}")
            return JSONResponse(UNAVAILABLE, 503, {"retry-after": "1"})
        headers = headers_of(completed, _trace_id(traceparent))
        if completed.failure is not None:
            status, body = error_of(completed.failure)
            return JSONResponse(body, status, headers)
        said = completion_of(completed)
        if asked.stream:
            text = [chunks.text(said.content)] if said.content else []
            return StreamingResponse(
                iter([chunks.begin(), *text, *chunks.end(said)]), headers=headers, media_type=EVENTS
            )
        return JSONResponse(completion_body(completed, said, asked.task_key.removeprefix("default/")), headers=headers)

    def _event(self, asked: Asked, key: str | None) -> InferenceRequested:
        """The request as an event. Raises `BadBody`."""
        tenant, _, name = asked.task_key.partition("/")
        task = self._tasks.get(asked.task_key)
        kind, text = asked.chat.as_input()
        if task is not None and task.kind == "rerank":
            raise BadBody(f"{name} ranks documents: send them to /v1/rerank.", "model", "unsupported_value")
        if task is not None and task.kind == "classify" and kind != "text":
            raise BadBody(
                f"{name} classifies one text: send one user message, and nothing else that asks for an answer.",
                "messages",
                "unsupported_value",
            )
        try:
            return InferenceRequested(
                # One key is one request of its tenant's task, whoever else has the same key.
                id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{asked.task_key}\x00{key}")) if key else str(uuid.uuid4()),
                tenant=tenant,
                task=name,
                input=text,
                input_type=kind,
                deadline_ms=LONGEST_MS,
            )
        except ValidationError:
            raise BadBody("model names no task; see /v1/models.", "model", "model_not_found") from None

    async def _models(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        return JSONResponse({"object": "list", "data": [_model_body(key) for key in sorted(self._tasks)]})

    async def _model(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        name = request.path_params["name"]
        key = name if "/" in name else f"default/{name}"
        if key in self._tasks:
            return JSONResponse(_model_body(key))
        said = error_body(f"no task {name!r} is declared.", "invalid_request_error", "model", "model_not_found")
        return JSONResponse(said, 404)

    def _refused(self, request: Request) -> Response | None:
        if not self._keys:
            return None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Every key is compared, so that the time taken tells nothing about which one was nearly right.
        known = [hmac.compare_digest(given.encode(), key) for key in self._keys]
        if scheme.lower() == "bearer" and any(known):
            return None
        said = error_body(
            "give a valid key: `Authorization: Bearer ...`.", "invalid_request_error", None, "invalid_api_key"
        )
        return JSONResponse(said, 401, {"www-authenticate": "Bearer"})


async def _as_it_comes(
    chunks: Chunks, first: str, pieces: asyncio.Queue[str | None], asking: asyncio.Task[InferenceCompleted]
) -> AsyncIterator[bytes]:
    """The events of an answer whose pieces come while it is written."""
    yield chunks.begin()
    piece: str | None = first
    while piece is not None:
        yield chunks.text(piece)
        piece = await pieces.get()
    try:
        completed = await asking
    except (KafkaError, RedisError, OSError) as error:
        log.warning("edge_not_answered", error=f"{type(error).__name__}: {error}")
        yield chunks.broken(UNAVAILABLE)
        return
    if completed.failure is not None:
        yield chunks.broken(error_of(completed.failure)[1])
        return
    for event in chunks.end(completion_of(completed)):
        yield event


def _trace_id(traceparent: str | None) -> str | None:
    return traceparent.split("-")[1] if traceparent else None


async def _body(request: Request) -> bytes:
    """The body, as long as it fits into a record. Raises `BadBody`, and `TimeoutError` where it comes too slowly."""
    said = bytearray()
    async with asyncio.timeout(BODY_S):
        async for chunk in request.stream():
            said += chunk
            if len(said) > MAX_RECORD_BYTES:
                raise BadBody(f"the body is larger than {MAX_RECORD_BYTES:,} bytes.", code="request_too_large")
    return bytes(said)


def _model_body(key: str) -> dict[str, Any]:
    return {"id": key.removeprefix("default/"), "object": "model", "created": 0, "owned_by": key.partition("/")[0]}


async def _nothing_there(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    said = error_body(f"{request.method} {request.url.path} is not served here.", "invalid_request_error")
    return JSONResponse(said, status)
