"""What a request is answered with, as a function of the request, the tasks and their teachers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from stillhouse.events import Answer, Failure, InferenceCompleted, InferenceRequested, follow_id
from stillhouse.models.port import Model, ModelError, Prediction
from stillhouse.tasks import Task


async def answer(
    request: InferenceRequested, tasks: Mapping[str, Task], teachers: Mapping[str, Model]
) -> InferenceCompleted:
    """The completed event for `request`; whatever goes wrong is an answer too, never an exception."""
    started = time.perf_counter()
    task = tasks.get(request.task_key)
    if task is None:
        known = ", ".join(sorted(tasks)) or "none"
        return failed(request, "unknown_task", f"no task {request.task_key!r} is declared; known: {known}.")
    if len(request.input) > task.max_input_chars:
        return failed(
            request,
            "too_large",
            f"the input has {len(request.input):,} characters; task {task.key!r} takes {task.max_input_chars:,}.",
        )
    deadline = min(task.teacher.timeout_s, (request.deadline_ms or 600_000) / 1000)
    try:
        async with asyncio.timeout(deadline):
            [prediction] = await teachers[task.key].predict([request.input])
    except TimeoutError:
        return failed(request, "deadline", f"the teacher did not answer within {deadline:g} s.")
    except ModelError as error:
        return failed(request, "teacher_failed", str(error))
    latency = (time.perf_counter() - started) * 1000
    return _completed(request).model_copy(
        update={
            "output": prediction.output,
            "served_by": "teacher",
            "reason": "pinned" if request.pin else ("policy" if prediction.policy else "no_student"),
            "teacher": _answer(prediction, teachers[task.key].version, latency),
            "cost_usd": prediction.cost_usd,
            "teacher_cost_usd": prediction.cost_usd,
            "latency_ms": latency,
        }
    )


def failed(request: InferenceRequested, code: str, message: str) -> InferenceCompleted:
    """An error answer with its reason."""
    return _completed(request).model_copy(
        update={"status": "error", "failure": Failure.model_validate({"code": code, "message": message})}
    )


def _completed(request: InferenceRequested) -> InferenceCompleted:
    return InferenceCompleted(
        id=follow_id(request.id, InferenceCompleted.TYPE, request.subject),
        tenant=request.tenant,
        task=request.task,
        request_id=request.id,
        input=request.input,
        purpose=request.purpose,
        requested_at=request.time.isoformat(),
        group=request.group,
    )


def _answer(prediction: Prediction, version: str, latency_ms: float) -> Answer:
    return Answer(
        output=prediction.output,
        confidence=prediction.confidence,
        distribution=dict(prediction.distribution),
        model=version,
        latency_ms=latency_ms,
        cpu_ms=prediction.cpu_ms,
        cost_usd=prediction.cost_usd,
    )
