"""Students in worker processes: order, micro-batches, bad artefacts, death and return."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stillhouse.models.artefact import folder_of
from stillhouse.models.frames import HEADER, pack, unpack
from stillhouse.models.port import Model, ModelError
from stillhouse.models.student import OnnxStudent
from stillhouse.models.worker_model import WorkerModel
from stillhouse.tasks import StudentCandidate, Task, Teacher

PRICE = 0.36


async def started(ref, student_id: str = "tiny-1") -> WorkerModel:
    model = WorkerModel.student(ref, student_id, PRICE)
    await model.start()
    return model


def job_of(ref) -> dict[str, object]:
    return {"job": "student", "artefact": ref.model_dump(), "student_id": "tiny-1", "usd_per_cpu_hour": 0}


async def eventually(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (it watches processes, which set no event)
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_the_worker_says_what_the_artefact_says_bit_for_bit(make_student) -> None:
    ref = make_student(temperature=0.3)
    texts = [f"message number {n} about order {n * 7}" for n in range(100)]
    local = [OnnxStudent(folder_of(ref)).predict_text(text) for text in texts]
    model = await started(ref)
    try:
        assert isinstance(model, Model)
        assert model.version == "tiny-1"
        assert await model.predict([]) == []
        together = await model.predict(texts)
        # Concurrent single calls are batched, and each gets its own answer.
        alone = [answer for [answer] in await asyncio.gather(*(model.predict([text]) for text in texts))]
        for answers in (together, alone):
            assert [(p.output, p.confidence, dict(p.distribution)) for p in answers] == local
        assert all(p.cpu_ms > 0 and p.cost_usd == pytest.approx(p.cpu_ms * PRICE / 3.6e6) for p in together)
    finally:
        await model.close()


def test_temperature_calibrates_and_personal_data_is_not_seen(make_student) -> None:
    cold = OnnxStudent(folder_of(make_student("cold", temperature=0.1)))
    warm = OnnxStudent(folder_of(make_student("warm", temperature=10.0)))
    assert cold.predict_text("an order")[0] == warm.predict_text("an order")[0]
    assert cold.predict_text("an order")[1] > warm.predict_text("an order")[1]
    assert sum(warm.predict_text("an order")[2].values()) == pytest.approx(1)
    assert np.array_equal(warm.logits("I am a@example.org"), warm.logits("I am someone.else@example.com"))


@pytest.mark.parametrize("spoil", ["byte", "extra", "missing", "manifest"])
async def test_a_corrupt_artefact_gets_one_sentence(make_student, spoil) -> None:
    ref = make_student()
    path = folder_of(ref) / "model.onnx"
    data = path.read_bytes()
    if spoil == "byte":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif spoil == "missing":
        path.unlink()
    elif spoil == "extra":
        path = path.with_name("tokenizer.json")
        path.write_text("{}")
    else:
        path = path.with_name("manifest.json")
        path.write_bytes(path.read_bytes() + b" ")
    model = WorkerModel.student(ref, "tiny-1", PRICE)
    with pytest.raises(ModelError) as caught:
        await model.start()
    assert str(path) in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert model.pid is None
    with pytest.raises(ModelError, match="not running"):
        await model.predict(["x"])


async def test_an_artefact_of_another_student_is_refused(make_student) -> None:
    with pytest.raises(ModelError, match="holds student tiny-1, not other-2"):
        await started(make_student(), "other-2")


async def test_a_killed_worker_fails_what_it_worked_on_and_comes_back(make_student) -> None:
    model = await started(make_student())
    try:
        first = model.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # so that the call is surely in the worker when it dies
        call = asyncio.create_task(model.predict(["in flight"]))
        await asyncio.sleep(0)  # now the call waits; and then it is in the worker
        await eventually(lambda: not model._waiting)
        later = asyncio.create_task(model.predict(["still waiting"]))
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(ModelError, match="died"):
            await call
        async with asyncio.timeout(20):
            [answer] = await later  # it had not reached the dead worker
            assert [answer.output] == [p.output for p in await model.predict(["still waiting"])]
        assert model.pid not in (None, first)
    finally:
        await model.close()


async def test_a_worker_that_cannot_come_back_fails_calls_at_once(make_student) -> None:
    ref = make_student()
    model = await started(ref)
    try:
        manifest = folder_of(ref) / "manifest.json"
        whole = manifest.read_bytes()
        manifest.write_bytes(b"{}")
        assert model.pid is not None
        os.kill(model.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            await eventually(lambda: model._down is not None)
            with pytest.raises(ModelError, match=r"is down: .*manifest\.json: its sha256"):
                await model.predict(["x"])
            manifest.write_bytes(whole)
            await eventually(lambda: model._down is None)
            assert len(await model.predict(["x"])) == 1
    finally:
        await model.close()


async def test_a_caller_that_gave_up_is_not_in_the_way(make_student) -> None:
    model = await started(make_student())
    try:
        assert model.pid is not None
        os.kill(model.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await model.predict(["too slow"] * 40)
        os.kill(model.pid, signal.SIGCONT)
        expected, got = await asyncio.gather(model.predict(["a refund"]), model.predict(["a refund", "an order"]))
        assert expected[0].distribution == got[0].distribution
        assert len(got) == 2
    finally:
        await model.close()


async def test_closing_ends_the_process_and_fails_what_waits(make_student) -> None:
    model = await started(make_student())
    pid = model.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # it cannot end by itself: it must be killed
    calls = [asyncio.create_task(model.predict([str(n)])) for n in range(40)]
    await asyncio.sleep(0)
    await model.close()
    for call in calls:
        with pytest.raises(ModelError, match="closed"):
            await call
    assert not alive(pid)


def test_the_worker_inherits_no_socket_and_prints_only_frames(make_student) -> None:
    """Spoken to by hand; whatever is inheritable in the owner, only standard streams are open in the worker."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "stillhouse.models.worker_main"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(pack(job_of(make_student())))
    worker.stdin.flush()
    try:

        def receive():
            (length,) = HEADER.unpack(worker.stdout.read(HEADER.size))
            return unpack(worker.stdout.read(length))

        assert receive() == {"ready": "tiny-1"}
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGTERM)  # its owner, not the terminal, ends it
        worker.stdin.write(pack([7, ["\ud83d\ude00 order", ""]]))
        worker.stdin.flush()
        number, answers = receive()
        assert (number, len(answers)) == (7, 2)
        links = [os.readlink(f"/proc/{worker.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{worker.pid}/fd")]
        assert not [link for link in links if link.startswith("socket:")]
    finally:
        worker.stdin.close()
    assert worker.wait(10) == 0
    assert worker.stdout.read() == b""


def test_the_worker_ends_when_its_owner_is_killed(make_student) -> None:
    code = (
        "import asyncio, sys\n"
        "from stillhouse.events.students import ArtefactRef\n"
        "from stillhouse.models.worker_model import WorkerModel\n"
        "async def main():\n"
        "    model = WorkerModel.student(ArtefactRef.model_validate_json(sys.argv[1]), 'tiny-1', 0)\n"
        "    await model.start()\n"
        "    print(model.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-c", code, make_student().model_dump_json()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
        owner.wait()
    asyncio.run(eventually(lambda: not alive(pid)))


def test_owners_of_workers_load_neither_torch_nor_onnxruntime() -> None:
    code = (
        "import sys, stillhouse.models, stillhouse.models.worker_model, stillhouse.models.student\n"
        "print(sorted({'torch', 'onnxruntime', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_a_teacher_with_a_bad_seed_does_not_start(tmp_path) -> None:
    seed = tmp_path / "seed.jsonl"
    seed.write_text('{"text": "hello", "label": "hi"}\n{"text": 3, "label": "bye"}\n')
    task = Task(
        name="t",
        labels=("hi", "bye"),
        teacher=Teacher(seed=seed, usd_per_call=0.1),
        students=(StudentCandidate(architecture="hashed_ngrams"),),
    )
    with pytest.raises(ModelError, match=r"seed\.jsonl: line 2: needs text and label"):
        await WorkerModel.teacher(task, tmp_path / "home").start()
