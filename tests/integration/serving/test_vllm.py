"""Three environments, one student: trained in ours, quantised in the second, served by the real vLLM of the third.

Makes the two environments where they are absent, which downloads some gigabytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal

import pytest

from stillhouse.distill.compression.quantise import quantise
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.lease import ReplicaLease
from stillhouse.models.vllm.recorded import Recorded, write_recorded
from stillhouse.models.vllm.spec import ServeSpec, weights_bytes
from stillhouse.models.vllm.student import VllmStudent
from tests.integration.serving.conftest import processes_of, until
from tests.tiny_models import tiny_causal_lm

TAUGHT = [
    ("where is my order", "It was sent on monday."),
    ("I want my money back", '{"intent": "refund"}'),
    ("hello", "Hello, what can I do for you?"),
]
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["refund", "order"]}},
    "required": ["intent"],
    "additionalProperties": False,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    plain = tiny_causal_lm(folder / "plain", taught=TAUGHT)
    said = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in TAUGHT]
    quantise(plain, folder / "w8a8", "w8a8", said * 4, gptq=True)
    return folder / "w8a8"


def test_quantised_is_smaller_and_the_same_twice(quantised, tmp_path) -> None:
    plain = quantised.parent / "plain"
    assert weights_bytes(quantised) < 0.5 * weights_bytes(plain)
    said = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in TAUGHT]
    quantise(plain, tmp_path / "again", "w8a8", said * 4, gptq=True)
    first, second = (
        hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for folder in (quantised, tmp_path / "again")
    )
    assert first == second
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (quantised / name).read_bytes() == (plain / name).read_bytes()


def test_a_failed_job_gives_its_reason_and_no_checkpoint(quantised, tmp_path) -> None:
    broken = shutil.copytree(quantised.parent / "plain", tmp_path / "broken")
    (broken / "config.json").write_text('{"model_type": "no_such_architecture"}')
    with pytest.raises(ModelError, match="no_such_architecture"):
        quantise(broken, tmp_path / "out", "w8a8", [[{"role": "user", "content": "hello"}]])
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
    with pytest.raises(ModelError, match="needs calibration"):
        quantise(broken, tmp_path / "out", "w4a16", [])


def _recorded(student: VllmStudent, question: str, answer: str) -> Recorded:
    asked = student.asked(ChatRequest.of("text", question))
    return Recorded({key: value for key, value in asked.items() if key != "model"}, answer)


async def test_what_one_environment_wrote_another_one_serves(quantised, tmp_path) -> None:
    lease = ReplicaLease(quantised, tmp_path, ServeSpec("tiny-w8a8", quantization="w8a8"), linger_s=5)
    await lease.start()
    student = VllmStudent("tiny-w8a8", lease.base_url, max_tokens=60)
    strict = VllmStudent("tiny-w8a8", lease.base_url, max_tokens=60, response_schema=SCHEMA)
    try:
        await lease.ready(600)
        for question, answer in TAUGHT:
            said = await student.complete(ChatRequest.of("text", question))
            assert (said.content, said.finish_reason) == (answer, "stop")
            assert len(said.log_probs) == len(said.margins) == said.output_tokens
            assert -0.1 < (said.log_prob or -9) < 0
            assert min(said.margins) > 1
        first = await student.complete(ChatRequest.of("text", "hello"))
        again = await student.complete(ChatRequest.of("text", "hello"))
        assert first.log_probs == pytest.approx(again.log_probs, abs=1e-4)
        held = await strict.complete(ChatRequest.of("text", "hello"))
        assert held.content in ('{"intent": "refund"}', '{"intent": "order"}')
        unheard = await asyncio.gather(
            *(student.complete(ChatRequest.of("text", f"hello {n}")) for n in range(8)), return_exceptions=True
        )
        assert all(isinstance(one, ModelError) or one.log_probs for one in unheard)  # type: ignore[union-attr]
        assert lease.cpu_seconds() > 1

        # The next one is compared with what this one said, one wrong memory allowed.
        kept = [_recorded(student, question, answer) for question, answer in TAUGHT]
        write_recorded(quantised, [*kept, _recorded(student, "hello", "something else")])
        before = lease.state()
        assert before is not None
        assert before.vllm_pid is not None
        os.kill(before.vllm_pid, signal.SIGKILL)
        until(lambda: lease.base_url() is None)
        with pytest.raises(ModelError):
            await student.complete(ChatRequest.of("text", "hello"))
        await lease.ready(600)
        after = lease.state()
        assert after is not None
        assert after.restarts == 1
        assert (await student.complete(ChatRequest.of("text", "hello"))).content == TAUGHT[2][1]
    finally:
        await student.close()
        await strict.close()
        await lease.release()
    until(lambda: not processes_of(tmp_path, "tiny-w8a8"), 40)
