"""Optimises the prompt of a student: its replica answers, another model rewrites, and both are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.models.chat.openai import OpenAITeacher
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.asking import GONE_S, answers_of
from stillhouse.models.vllm.served import ServedStudent
from stillhouse.tasks import LanguageModel

if TYPE_CHECKING:
    from stillhouse.distill.causal_lm.examples import WrittenText
    from stillhouse.distill.causal_lm.prompt import Instruction

Report = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Found:
    """An instruction and what it took: CPU seconds of the replica, calls of the model that rewrites."""

    instruction: Instruction
    cpu_s: float
    reflections: int
    reflection_usd: float

    @property
    def text(self) -> str:
        """The instruction."""
        return self.instruction.text

    def numbers(self) -> dict[str, float]:
        """For the student's metrics."""
        found = self.instruction
        return {
            "prompt_agreement": found.agreement,
            "prompt_agreement_before": found.agreement_before,
            "prompt_judged_on": float(found.judging),
            "prompts_tried": float(found.tried),
            "reflections": float(self.reflections),
            "reflection_usd": self.reflection_usd,
        }


async def find_instruction(
    folder: Path,
    home: Path,
    candidate: LanguageModel,
    train: Sequence[WrittenText],
    same: Callable[[str, str], bool],
    report: Report,
) -> Found:
    """Serve the checkpoint in `folder` and rewrite its instruction. Raises `ModelError`."""
    from stillhouse.distill.causal_lm.prompt import optimise_prompt

    settings = candidate.reflection
    assert settings is not None
    writer = OpenAITeacher(settings.base_url, settings.model, settings.api_key_env, lambda asked, said: 0.0)
    student = ServedStudent(folder, home, timeout_s=GONE_S)
    loop, calls, asked = asyncio.get_running_loop(), 0, 0

    def ask(instruction: str, texts: Sequence[WrittenText]) -> list[str]:
        nonlocal asked
        requests = [text.request.with_instruction(instruction) for text in texts]
        said = asyncio.run_coroutine_threadsafe(answers_of(student, requests), loop).result()
        asked += len(requests)
        report("optimising the prompt", min(1.0, asked / candidate.metric_calls), reflections=calls)
        return [one.output for one in said]

    def reflect(prompt: str) -> str:
        nonlocal calls
        calls += 1
        complete = asyncio.wait_for(writer.complete(ChatRequest.of("text", prompt)), settings.timeout_s)
        try:
            return asyncio.run_coroutine_threadsafe(complete, loop).result().content or ""
        except TimeoutError:
            raise ModelError(
                f"{settings.model}, which rewrites the prompt, did not answer within {settings.timeout_s:g} s."
            ) from None

    try:
        await student.start()
        await student.ready()
        before = student.cpu_seconds()
        found = await asyncio.to_thread(
            optimise_prompt, ask, reflect, train, same, metric_calls=candidate.metric_calls, seed=candidate.seed
        )
        cpu_s = student.cpu_seconds() - before
    finally:
        await student.close()
        await writer.close()
    return Found(found, cpu_s, calls, calls * settings.usd_per_call)
