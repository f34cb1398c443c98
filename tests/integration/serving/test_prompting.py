"""An instruction is rewritten with a student that answers and a model that rewrites, both behind HTTP."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import PlainTextResponse

from services.trainer.prompting import find_instruction
from stillhouse.distill.causal_lm.examples import WrittenText
from stillhouse.distill.causal_lm.prompt import SEED, optimise_prompt
from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.ending import end_replicas
from stillhouse.tasks import LanguageModel
from tests.integration.router.upstream import Upstream
from tests.integration.serving.conftest import processes_of, until

pytestmark = pytest.mark.usefixtures("fake_vllm")
TEXTS = [WrittenText(ChatRequest.of("text", f"question {n}"), f"answer {n}") for n in range(30)]


def rung(url: str, **more: object) -> LanguageModel:
    reflection = {"base_url": url, "model": "big", "usd_per_call": 0.01}
    fields = {
        "architecture": "causal_lm",
        "base": "b",
        "method": "prompt",
        "reflection": reflection,
        "metric_calls": 60,
    }
    return LanguageModel.model_validate(fields | more)


def obeys(said: str, wanted: str) -> bool:
    """The stand-in repeats what it was asked, its instruction first: it is right where that says the word."""
    return said.startswith("Be LOUD")


async def test_a_better_instruction_is_found_and_what_it_took_is_counted(checkpoint, tmp_path) -> None:
    folder = checkpoint(echo=True)
    CausalLmSpec("s-1-prompt", "b", examples=(("q", "a"),)).write(folder)
    phases: list[str] = []

    def report(phase: str, share: float, **numbers: object) -> None:
        phases.append(phase)

    async with Upstream().serving() as writer:
        writer.say = {"role": "assistant", "content": "It should say:\n```\nBe LOUD\n```"}
        found = await find_instruction(folder, tmp_path, rung(writer.url), TEXTS, obeys, report)
        asked = writer.asked[0]["messages"][0]["content"]
    assert found.text == "Be LOUD"
    numbers = found.numbers()
    assert (numbers["prompt_agreement_before"], numbers["prompt_agreement"]) == (0.0, 1.0)
    assert numbers["reflection_usd"] == pytest.approx(0.01 * len(writer.asked)) == 0.01 * found.reflections
    assert SEED in asked, "the instruction to mend"
    assert "The right answer is: answer" in asked, "and what was wrong with its answers"
    assert set(phases) == {"optimising the prompt"}
    await asyncio.to_thread(end_replicas, tmp_path)
    until(lambda: not processes_of(tmp_path, "s-1-prompt"))


async def test_a_model_that_cannot_rewrite_ends_it_with_its_reason(checkpoint, tmp_path) -> None:
    folder = checkpoint(echo=True)
    CausalLmSpec("s-1-prompt", "b").write(folder)
    async with Upstream().serving() as writer:
        writer.before = [PlainTextResponse("no", 401) for _ in range(9)]
        with pytest.raises(ModelError, match="big refused with status 401"):
            await find_instruction(folder, tmp_path, rung(writer.url), TEXTS, obeys, lambda *_, **__: None)
        assert len(writer.asked) == 1
    await asyncio.to_thread(end_replicas, tmp_path)


def test_what_is_found_never_agrees_less_than_what_it_began_with() -> None:
    def ask(instruction: str, texts: list[WrittenText]) -> list[str]:
        return ["right" if instruction == SEED else "wrong"] * len(texts)

    kept = optimise_prompt(
        ask, lambda _: "```worse```", TEXTS, lambda said, _: said == "right", metric_calls=60, seed=1
    )
    assert (kept.text, kept.agreement, kept.agreement_before) == (SEED, 1.0, 1.0)
    assert kept.judging == 10
    with pytest.raises(ModelError, match="too few"):
        optimise_prompt(ask, str, TEXTS[:2], str.__eq__, metric_calls=60, seed=1)


def test_the_rung_and_its_writer_go_together() -> None:
    with pytest.raises(ValueError, match="go together"):
        rung("http://x", method="lora")
    with pytest.raises(ValueError, match="go together"):
        rung("http://x", reflection=None)
    with pytest.raises(ValueError, match="prompt learns nothing"):
        rung("http://x", keep_layers=3)
