"""`POST /v1/rerank`, in the shape that rerank APIs share (Cohere, Jina, vLLM).

`{"model", "query", "documents", "top_n", "return_documents"}` is answered `{"id", "model", "results": [{"index",
"relevance_score", "document"}]}`. All documents are ranked and recorded; `top_n` only shortens what is shown.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from services.router.edge.asked import BadBody
from services.router.edge.shapes import error_body, error_of, headers_of
from stillhouse.bus import new_traceparent
from stillhouse.events import InferenceCompleted, InferenceRequested
from stillhouse.models.chat.request import first_sentence
from stillhouse.models.rerank_request import RerankRequest, order_of
from stillhouse.tasks import Task
from stillhouse.telemetry.tracing import span_context_of

LONGEST_MS: Final = 600_000
UNAVAILABLE: Final = error_body("the answer could not be recorded; try again.", "server_error", code="unavailable")

Ask = Callable[[InferenceRequested, str, None, bool], Awaitable[InferenceCompleted]]
Read = Callable[[Request], Awaitable[bytes]]

log = structlog.get_logger()


class _Document(BaseModel):
    """A document as an object, of which only the text is read."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1)


class _Body(BaseModel):
    """What a client sends. Unknown keys are refused: what is not understood is not dropped in silence."""

    model_config = ConfigDict(extra="forbid")

    model: str
    query: str = Field(min_length=1)
    documents: list[str | _Document] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    user: str | None = None


class Reranking:
    """Turns rerank calls into requests and rankings into results."""

    def __init__(self, tasks: Mapping[str, Task], ask: Ask, read: Read) -> None:
        """`ask` answers a request and raises where its answer could not be written; `read` gives a request's body."""
        self._tasks = tasks
        self._ask = ask
        self._read = read

    async def answer(self, request: Request) -> Response:
        """The response to one call."""
        try:
            body = _body_of(await self._read(request))
            key = request.headers.get("idempotency-key")
            asked = RerankRequest(query=body.query, documents=tuple(_text(one) for one in body.documents))
            event = self._event(body.model, asked, key)
        except BadBody as error:
            status = 413 if error.code == "request_too_large" else 400
            return JSONResponse(error_body(str(error), "invalid_request_error", error.param, error.code), status)
        except ValidationError as error:
            return JSONResponse(error_body(f"{first_sentence(error)}.", "invalid_request_error", "documents"), 400)
        except ClientDisconnect:
            return Response(status_code=499)
        except TimeoutError:
            late = error_body("the body came too slowly; send it again.", "invalid_request_error")
            return JSONResponse(late, 408, {"connection": "close"})
        given = request.headers.get("traceparent")
        traceparent = given if given is not None and span_context_of(given) is not None else new_traceparent()
        # A task of its own: a client that leaves must not take back what is asked already.
        asking = asyncio.ensure_future(self._ask(event, traceparent, None, bool(key)))
        try:
            completed = await asyncio.shield(asking)
            if completed.failure is None:
                shown = _results(completed, asked, body)
        except (KafkaError, RedisError, OSError) as error:
            log.warning("edge_not_answered", event_id=event.id, error=f"{type(error).__name__}: {error}")
            return JSONResponse(UNAVAILABLE, 503, {"retry-after": "1"})
        except ValueError as error:
            return JSONResponse(error_body(f"{error}.", "server_error", code="upstream_error"), 502)
        headers = headers_of(completed, traceparent.split("-")[1])
        if completed.failure is not None:
            status, said = error_of(completed.failure)
            return JSONResponse(said, status, headers)
        return JSONResponse(shown, headers=headers)

    def _event(self, model: str, asked: RerankRequest, key: str | None) -> InferenceRequested:
        """The request as an event. Raises `BadBody`."""
        tenant, _, name = model.rpartition("/")
        tenant = tenant or "default"
        task = self._tasks.get(f"{tenant}/{name}")
        if task is not None and task.kind != "rerank":
            raise BadBody(f"{name} is a task of kind {task.kind}; it ranks no documents.", "model", "unsupported_value")
        try:
            return InferenceRequested(
                # One key is one request of its tenant's task, whoever else has the same key.
                id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}/{name}\x00{key}")) if key else str(uuid.uuid4()),
                tenant=tenant,
                task=name,
                input=asked.as_input(),
                input_type="rerank",
                deadline_ms=LONGEST_MS,
            )
        except ValidationError:
            raise BadBody("model names no task; see /v1/models.", "model", "model_not_found") from None


def _results(completed: InferenceCompleted, asked: RerankRequest, body: _Body) -> dict[str, Any]:
    """The answer's body. ValueError where the output is no ranking of the documents."""
    answer = completed.student if completed.served_by == "student" else completed.teacher
    scores = answer.distribution if answer is not None else {}
    results: list[dict[str, Any]] = []
    for place in order_of(completed.output or "", len(asked.documents))[: body.top_n]:
        result: dict[str, Any] = {"index": place, "relevance_score": scores.get(str(place), 0.0)}
        if body.return_documents:
            result["document"] = {"text": asked.documents[place]}
        results.append(result)
    return {"id": completed.request_id, "object": "rerank", "model": body.model, "results": results}


def _body_of(said: bytes) -> _Body:
    """What is asked. Raises `BadBody`."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        raise BadBody("the body is not valid JSON; send one JSON object in UTF-8.") from None
    try:
        return _Body.model_validate(found)
    except ValidationError as error:
        param = str(error.errors(include_url=False)[0]["loc"][0]) if error.errors()[0]["loc"] else None
        raise BadBody(f"{first_sentence(error)}.", param, "invalid_value") from None


def _text(document: str | _Document) -> str:
    return document if isinstance(document, str) else document.text
