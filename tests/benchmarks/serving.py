"""`serving`: what a student that writes costs in vLLM as it is and quantised, and how often it agrees.

SmolLM2-135M-Instruct is fine-tuned (LoRA, one pass) on recorded answers, and asked about inputs whose answers it never
saw: as it is, in every quantised form that this machine can run, and once not tuned at all, with eight recorded
answers in its prompt (`few_shot`). Agreement is that of whole JSON answers, all fields. Answers are held to the JSON
Schema that the recorded ones follow. Each repeat starts a replica, asks everything 16 at a time, then some one at a
time; systems take turns. CPU time is that of vLLM's processes; generated tokens count. The teacher is a recording:
nobody can say here what it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from stillhouse.demo.writing.source import schema_of
from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import WrittenText, messages_of
from stillhouse.distill.causal_lm.few_shot import choose_examples
from stillhouse.distill.causal_lm.sft import tune
from stillhouse.distill.compression.quantise import quantise
from stillhouse.files import read_json, write_json
from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.ending import end_replicas
from stillhouse.models.vllm.served import SEQUENCES, ServedStudent
from stillhouse.models.vllm.supported import choices, detect
from stillhouse.tasks import LanguageModel
from tests.benchmarks import meta
from tests.benchmarks.report import percent, rate, table
from tests.benchmarks.writing_data import BASE, answers, base

HOME = meta.ROOT / ".stillhouse" / "bench" / "serving"
MADE = "made.json"
ALONE = 15
HEADINGS = (
    "system",
    "tokens / CPU-s",
    "range",
    "× fp32",
    "tokens / s, 16 at once",
    "p50 s, alone",
    "MB",
    "agreement",
    "failed",
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One repeat."""

    outputs: list[str | None]
    tokens: int
    cpu_s: float
    seconds: float
    alone_s: list[float]


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    repeats = 1 if quick else 2
    found = answers(data, 160, 40 if quick else 100)
    tuned = _tuned(found.learnt, HOME / "fp32", begun["commit"])
    systems = _forms(tuned, found.learnt) | {"stillhouse_few_shot": _few_shot(found.learnt)}
    said: dict[str, list[Answered]] = {name: [] for name in systems}
    try:
        for _ in range(repeats):
            for name, folder in systems.items():
                said[name].append(asyncio.run(_ask(folder, found.asked)))
    finally:
        end_replicas(HOME)
    result: dict[str, Any] = {}
    for name, runs in said.items():
        rates = [one.tokens / one.cpu_s for one in runs]
        agree = [
            sum(_same(output, text.answer) for output, text in zip(one.outputs, found.asked, strict=True))
            for one in runs
        ]
        share = rate(round(median(agree)), len(found.asked))
        result[name] = {
            "tokens_per_cpu_s": median(rates),
            "tokens_per_cpu_s_range": [min(rates), max(rates)],
            "tokens_per_s": median(one.tokens / one.seconds for one in runs),
            "p50_s_alone": median(second for one in runs for second in one.alone_s),
            "bytes": sum(path.stat().st_size for path in systems[name].iterdir()),
            "agreement": share["value"],
            "agreement_interval": [share["low"], share["high"]],
            "failed": sum(output is None for one in runs for output in one.outputs) / repeats / len(found.asked),
        }
    for of in result.values():
        of["times_fp32"] = of["tokens_per_cpu_s"] / result["stillhouse_fp32"]["tokens_per_cpu_s"]
    packages = ("torch", "transformers", "peft")
    result["meta"] = meta.finish(begun, repeats=repeats, quick=quick, data=found.name, packages=packages)
    result["meta"]["texts"] = {"learnt": len(found.learnt), "asked": len(found.asked), "asked_alone": ALONE}
    return result


def _tuned(learnt: Sequence[WrittenText], folder: Path, commit: str) -> Path:
    """The tuned checkpoint; what a run of this commit that was stopped had made of it is used again."""
    made = {"commit": commit, "texts": [text.request.question for text in learnt]}
    if read_json(HOME / MADE) == made:
        return folder
    shutil.rmtree(HOME, ignore_errors=True)
    candidate = LanguageModel(architecture="causal_lm", base=BASE, epochs=1, batch_size=512, step_tokens=1024)
    checkpoints = HOME / "checkpoints"
    checkpoints.mkdir(parents=True)
    cut = len(learnt) * 9 // 10
    tuned = tune(
        candidate,
        base(),
        learnt[:cut],
        learnt[cut:],
        on_progress=lambda part: print(f"tuning {part.fraction:.0%}, loss {part.select_loss:.3f}", flush=True),
        checkpoint_dir=checkpoints,
        threads=len(os.sched_getaffinity(0)),
    )
    tuned.model.save_pretrained(str(folder), safe_serialization=True)
    tuned.tokenizer.save_pretrained(str(folder))
    _spec("fp32", learnt).write(folder)
    write_json(HOME / MADE, made)
    return folder


def _forms(tuned: Path, learnt: Sequence[WrittenText]) -> dict[str, Path]:
    """The tuned student as it is and in what else can be served here."""
    forms = {"stillhouse_fp32": tuned}
    chats = [[*messages_of(text.request), {"role": "assistant", "content": text.answer}] for text in learnt[-128:]]
    for scheme in choices(detect(with_gpu=False)):
        if scheme != "none":
            if not (HOME / scheme).exists():
                quantise(tuned, HOME / scheme, scheme, chats)
            replace(_spec(scheme, learnt), quantization=scheme).write(HOME / scheme)
            forms[f"stillhouse_{scheme}"] = HOME / scheme
    return forms


def _few_shot(learnt: Sequence[WrittenText]) -> Path:
    folder, tokenizer = HOME / "few_shot", load_tokenizer(base())
    model = load_model(base(), tokenizer)
    shown = choose_examples(model, tokenizer, learnt, 8, 1024, 0)
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
    spec = _spec("few-shot", learnt)
    examples = tuple((text.request.question, text.answer) for text in shown)
    replace(spec, examples=examples, max_model_len=2048).write(folder)
    return folder


def _spec(name: str, learnt: Sequence[WrittenText]) -> CausalLmSpec:
    schema = schema_of([text.answer for text in learnt])
    return CausalLmSpec(f"bench-{name}", BASE, max_model_len=1024, max_new_tokens=160, response_schema=schema)


async def _ask(folder: Path, asked: Sequence[WrittenText]) -> Answered:
    student = ServedStudent(folder, HOME, timeout_s=300)
    slots = asyncio.Semaphore(SEQUENCES)
    tokens = 0

    async def ask(text: WrittenText) -> str | None:
        nonlocal tokens
        async with slots:
            try:
                said = await student.complete(text.request)
            except ModelError:
                return None
        tokens += said.output_tokens
        return said.content

    try:
        await student.start()
        await student.ready()
        await asyncio.gather(*map(ask, asked[:2]))  # what is compiled or read at first is not what serving costs
        tokens, before, started = 0, student.cpu_seconds(), time.perf_counter()
        outputs = await asyncio.gather(*map(ask, asked))
        seconds, cpu_s, counted = time.perf_counter() - started, student.cpu_seconds() - before, tokens
        alone = []
        for text in asked[:ALONE]:
            began = time.perf_counter()
            await ask(text)
            alone.append(time.perf_counter() - began)
        return Answered(list(outputs), counted, cpu_s, seconds, alone)
    finally:
        await student.close()


def _same(output: str | None, recorded: str) -> bool:
    return output is not None and json.loads(output) == json.loads(recorded)


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = [
        [
            name,
            of["tokens_per_cpu_s"],
            f"{of['tokens_per_cpu_s_range'][0]:.3g}–{of['tokens_per_cpu_s_range'][1]:.3g}",
            of["times_fp32"],
            of["tokens_per_s"],
            of["p50_s_alone"],
            of["bytes"] / 1e6,
            f"{percent(of['agreement'])} ({percent(low)} – {percent(high)})",
            percent(of["failed"]),
        ]
        for name, of in result.items()
        if name != "meta"
        for low, high in [of["agreement_interval"]]
    ]
    return table(HEADINGS, rows)
