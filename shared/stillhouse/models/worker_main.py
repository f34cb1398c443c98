"""The worker process: `python -m stillhouse.models.worker_main`, spoken to by `stillhouse.models.worker`.

It reads frames from standard input, writes frames to what was standard output, and ends when its owner does, which it
sees as the end of its input. Nothing else reaches the owner: whatever a library prints goes to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from stillhouse.models.frames import HEADER, pack, unpack
from stillhouse.models.port import ModelError, Prediction

WARM_UP = "warm up"
WARM_UP_LIST = '{"query":"warm up","documents":["warm","up"]}'
Predict = Callable[[list[str]], list[Prediction]]


def main() -> int:
    """Take the job from the first frame and do it; the exit status is 0 where the owner ended it."""
    # The owner decides when this process ends; a Ctrl-C or a stop of the whole group reaches the owner too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    frames_in = os.fdopen(os.dup(0), "rb")
    frames_out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    job = _read(frames_in)
    if job is None:
        return 0
    try:
        if job["job"] == "fit":
            _write(frames_out, {"done": str(_fit(job, frames_out))})
            return 0
        version, predict, warm_up = {"student": _student, "reranker": _reranker}.get(job["job"], _teacher)(job)
        predict([warm_up])
    except ModelError as error:
        _write(frames_out, {"error": str(error)})
        return 1
    except (OSError, MemoryError) as error:
        _write(frames_out, {"error": f"The {job['job']} could not be loaded: {error!r}; mend that and start again."})
        return 1
    _write(frames_out, {"ready": version})
    _serve(predict, frames_in, frames_out)
    return 0


def _serve(predict: Predict, frames_in: BinaryIO, frames_out: BinaryIO) -> None:
    while (frame := _read(frames_in)) is not None:
        number, texts = frame
        try:
            answer: Any = [
                [p.output, p.confidence, p.distribution, p.latency_ms, p.cpu_ms, p.cost_usd, p.input_tokens, p.policy]
                for p in predict(texts)
            ]
        except ModelError as error:
            answer = str(error)
        except Exception as error:  # one bad input must not take the others' model away
            answer = f"The model failed on an input ({type(error).__name__}); see the worker's log."
            sys.excepthook(type(error), error, error.__traceback__)
        _write(frames_out, [number, answer])


def _teacher(job: dict[str, Any]) -> tuple[str, Predict, str]:
    from stillhouse.models.teacher import EnsembleTeacher
    from stillhouse.tasks.declaration import Task

    teacher = EnsembleTeacher(Task.model_validate_json(job["task"]), Path(job["folder"]))

    def predict(texts: list[str]) -> list[Prediction]:
        wall, cpu = time.perf_counter(), time.process_time()
        predictions = teacher.predict(texts)
        wall_ms = (time.perf_counter() - wall) * 1000 / len(texts)
        cpu_ms = (time.process_time() - cpu) * 1000 / len(texts)
        return [replace(prediction, latency_ms=wall_ms, cpu_ms=cpu_ms) for prediction in predictions]

    return teacher.version, predict, WARM_UP


def _reranker(job: dict[str, Any]) -> tuple[str, Predict, str]:
    from stillhouse.models.rerank_teacher import LocalTeacher

    teacher = LocalTeacher(Path(job["folder"]), float(job["usd_per_call"]))
    return teacher.version, teacher.predict, WARM_UP_LIST


def _student(job: dict[str, Any]) -> tuple[str, Predict, str]:
    from stillhouse.events.students import ArtefactRef
    from stillhouse.models.artefact import verify
    from stillhouse.models.rerank_student import OnnxReranker, is_reranker
    from stillhouse.models.student import OnnxStudent

    folder = verify(ArtefactRef.model_validate(job["artefact"]))
    ranks = is_reranker(folder)
    student = OnnxReranker(folder) if ranks else OnnxStudent(folder)
    if student.student_id != job["student_id"]:
        raise ModelError(f"{job['artefact']['uri']}: holds student {student.student_id}, not {job['student_id']}.")
    usd_per_cpu_ms = float(job["usd_per_cpu_hour"]) / 3_600_000

    def predict(texts: list[str]) -> list[Prediction]:
        answers = []
        for text in texts:
            wall, cpu = time.perf_counter(), time.process_time()
            output, confidence, distribution, size = student.predict_counted(text)
            cpu_ms = (time.process_time() - cpu) * 1000
            wall_ms = (time.perf_counter() - wall) * 1000
            cost = cpu_ms * usd_per_cpu_ms
            answers.append(Prediction(output, confidence, distribution, wall_ms, cpu_ms, cost, size))
        return answers

    return student.student_id, predict, WARM_UP_LIST if ranks else WARM_UP


def _fit(job: dict[str, Any], frames_out: BinaryIO) -> Path:
    from stillhouse.models.teacher import fit_teacher
    from stillhouse.tasks.declaration import Task

    return fit_teacher(
        Task.model_validate_json(job["task"]),
        Path(job["home"]),
        lambda at: _write(frames_out, {"progress": [at.phase, at.done, at.total]}),
    )


def _read(frames_in: BinaryIO) -> Any:
    """The next message, or None at the end of the input."""
    header = frames_in.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    body = frames_in.read(length)
    return unpack(body) if len(body) == length else None


def _write(frames_out: BinaryIO, message: Any) -> None:
    left = memoryview(pack(message))
    try:
        while left:
            left = left[frames_out.write(left) :]
    except BrokenPipeError:  # the owner is gone
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
