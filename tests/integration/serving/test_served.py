"""A served student behind a stand-in for vLLM: its confidence, its cost, what it is not shown, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from services.router.students import Students
from services.validator.judged import Writer
from stillhouse.events import ArtefactRef, RouteChanged, StudentRoute, now
from stillhouse.files import read_json
from stillhouse.models.artefact import verify, write_manifest
from stillhouse.models.causal_lm import ARCHITECTURE, CausalLmSpec
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.asking import ask_all
from stillhouse.models.vllm.ending import end_replicas
from stillhouse.models.vllm.served import ServedStudent
from tests.integration.serving.conftest import processes_of, until

pytestmark = pytest.mark.usefixtures("fake_vllm")


@pytest.fixture
def artefact(checkpoint):
    """Makes the artefact of a student; its keywords tell the stand-in what to do."""

    def make(student_id: str = "s-1", **fake: object) -> ArtefactRef:
        folder = checkpoint(**fake)
        (folder / "manifest.json").unlink(missing_ok=True)
        CausalLmSpec(student_id, "base", cpu_s_per_token=0.01).write(folder)
        return write_manifest(folder)

    return make


def route_of(artefact: ArtefactRef, version: int = 1) -> RouteChanged:
    live = StudentRoute(student_id="s-1", architecture=ARCHITECTURE, artefact=artefact, threshold=0.5, since=now())
    return RouteChanged(
        task="t", version=version, stage="live", live=live, reason="test", changed_by="test", cause_id="x"
    )


async def test_an_answer_has_a_confidence_and_a_price(artefact, tmp_path) -> None:
    student = ServedStudent(verify(artefact()), tmp_path, usd_per_cpu_hour=3.6)
    await student.start()
    await student.ready(15)
    said = await student.complete(ChatRequest.of("text", "hello"))
    assert said.confidence == pytest.approx(0.8187, abs=1e-3)  # exp of the mean of -0.1 and -0.3
    assert said.cost_usd == pytest.approx((9 + 2) * 0.01 * 3.6 / 3600)
    with pytest.raises(ModelError, match="calls no tools"):
        await student.complete(ChatRequest.of("text", "hello").model_copy(update={"tools": [{"type": "function"}]}))
    await student.close()
    assert await asyncio.to_thread(end_replicas, tmp_path) == 1
    until(lambda: not processes_of(tmp_path, "s-1"))
    assert end_replicas(tmp_path) == 0


async def test_examples_are_asked_with_every_question_and_redacted_once(artefact, tmp_path) -> None:
    folder = verify(artefact(echo=True))
    replace(CausalLmSpec.read(folder), examples=(("who is <EMAIL_1>?", "nobody"),)).write(folder)
    student = ServedStudent(folder, tmp_path)
    await student.start()
    await student.ready(15)
    said = await student.complete(ChatRequest.of("text", "hello"))
    assert said.content == "who is <EMAIL_1>?\nnobody\nhello"
    assert said.confidence > 0
    await student.close()
    await asyncio.to_thread(end_replicas, tmp_path)


def test_a_gate_asks_through_the_runtime_that_serves(artefact, tmp_path) -> None:
    folder = verify(artefact())
    said, cpu = Writer(folder, tmp_path).answer([{"input": "hello", "input_type": "text"}] * 20)
    assert said == [("fine", pytest.approx(0.8187, abs=1e-3))] * 20
    assert cpu >= 0
    # Bad requests of some are nobody else's.
    asked = ask_all(folder, tmp_path, [ChatRequest.of("text", "hello")] * 3)
    assert [one.error for one in asked.answers] == [""] * 3
    end_replicas(tmp_path)


async def test_a_route_does_not_wait_for_a_replica_and_a_dead_one_is_told(artefact, tmp_path) -> None:
    ref = artefact(slow_s=1.5)
    students = Students(lambda route, of: ServedStudent(verify(route.artefact), tmp_path))
    route = route_of(ref)
    async with asyncio.timeout(5):
        await students.load(route)
    assert route.live is not None
    assert students.starting(route.live), "a minute, in which the teacher answers"
    model = students.get(route.live)
    assert isinstance(model, ServedStudent)
    with pytest.raises(ModelError, match="not ready"):
        await model.complete(ChatRequest.of("text", "hello"))
    await model.ready(20)
    assert not students.starting(route.live)
    state = read_json(tmp_path / "replicas" / "s-1" / "replica.json")
    os.kill(state["vllm_pid"], signal.SIGKILL)
    deadline = asyncio.get_running_loop().time() + 15
    while not students.starting(route.live):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    await model.ready(30)
    await students.keep([])
    assert students.get(route.live) is None
    await asyncio.to_thread(end_replicas, tmp_path)
    until(lambda: not processes_of(tmp_path, "s-1"))


def test_an_artefact_that_is_no_writer_is_refused(checkpoint, tmp_path) -> None:
    folder = checkpoint()
    with pytest.raises(ModelError, match=r"student\.json"):
        ServedStudent(folder, tmp_path)
    CausalLmSpec("../x", "base").write(folder)
    with pytest.raises(ModelError, match="plain name"):
        ServedStudent(folder, tmp_path)
