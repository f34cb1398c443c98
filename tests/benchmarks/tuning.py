"""`tuning`: how fast a student that writes is fine-tuned, beside plain TRL.

SmolLM2-135M-Instruct learns recorded answers once, in float32 on all cores that it may use: LoRA of rank 16 beside
every linear layer, AdamW, the same rate with warm-up and cosine decay, about 1,024 tokens a step, loss on the answers'
tokens only. TRL's `SFTTrainer` runs without gradient checkpointing, which is its default and trades time for memory,
and without packing, for which it wants attention kernels of a GPU. Runs of the two alternate. Tokens are those of
examples, not of padding; the loss is that on answers which share nothing with what was learnt.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import WrittenText, encode, messages_of
from stillhouse.distill.causal_lm.packing import batch_of
from stillhouse.distill.causal_lm.sft import WARM_UP, _loss_of, tune
from stillhouse.tasks import LanguageModel
from tests.benchmarks import meta
from tests.benchmarks.report import table
from tests.benchmarks.writing_data import answers, base

RATE = 1e-3
STEP_TOKENS = 1024
HEADINGS = ("system", "tokens / s", "range", "× TRL", "CPU-s per 1,000 tokens", "loss, unseen answers")


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    repeats = 1 if quick else 3
    found = answers(data, 160, 50)
    taught = found.learnt[: 24 if quick else 64]
    folder = base()
    tokenizer = load_tokenizer(folder)
    learnt, _ = encode(tokenizer, taught, 768)
    tokens = sum(len(one) for one in learnt)
    unseen, _ = encode(tokenizer, found.asked, 768)
    judged = [batch_of([[one] for one in unseen[at : at + 8]], 0) for at in range(0, len(unseen), 8)]
    systems: dict[str, Callable[[], tuple[Any, float]]] = {
        "stillhouse": lambda: _ours(folder, taught),
        "trl": lambda: _trl(folder, taught, round(STEP_TOKENS / (tokens / len(learnt)))),
    }
    rates: dict[str, list[float]] = {name: [] for name in systems}
    cpu: dict[str, list[float]] = {name: [] for name in systems}
    loss: dict[str, float] = {}
    for _ in range(repeats):
        for name, system in systems.items():
            before = time.process_time()
            model, seconds = system()
            rates[name].append(tokens / seconds)
            cpu[name].append(1000 * (time.process_time() - before) / tokens)
            loss[name] = _loss_of(model, judged, torch.device("cpu"))
            del model
            gc.collect()
    middle = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
    result: dict[str, Any] = {
        name: {
            "tokens_per_s": middle[name],
            "tokens_per_s_range": [min(rates[name]), max(rates[name])],
            "times_trl": middle[name] / middle["trl"],
            "cpu_s_per_1k_tokens": sorted(cpu[name])[len(cpu[name]) // 2],
            "loss": loss[name],
        }
        for name in systems
    }
    packages = ("torch", "transformers", "peft", "trl")
    result["meta"] = meta.finish(begun, repeats=repeats, quick=quick, data=found.name, packages=packages)
    result["meta"]["tokens"] = {"examples": len(learnt), "tokens": tokens, "unseen": len(unseen)}
    return result


def _ours(folder: Path, learnt: list[WrittenText]) -> tuple[Any, float]:
    candidate = LanguageModel(
        architecture="causal_lm", base=str(folder), epochs=1, learning_rate=RATE, step_tokens=STEP_TOKENS
    )
    rates: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        tuned = tune(
            candidate,
            folder,
            learnt,
            learnt[:1],  # four looks at one example: what chooses a part of the run is not what is timed
            on_progress=lambda part: rates.append(part.tokens_per_s),
            checkpoint_dir=Path(scratch),
            threads=len(os.sched_getaffinity(0)),
        )
    return tuned.model, tuned.trained_tokens / rates[-1]


def _trl(folder: Path, learnt: list[WrittenText], examples_a_step: int) -> tuple[Any, float]:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = load_tokenizer(folder)
    rows = [
        {"prompt": messages_of(one.request), "completion": [{"role": "assistant", "content": one.answer}]}
        for one in learnt
    ]
    with tempfile.TemporaryDirectory() as scratch:
        settings = SFTConfig(
            output_dir=scratch,
            num_train_epochs=1,
            per_device_train_batch_size=examples_a_step,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=WARM_UP,
            weight_decay=0.0,
            max_length=768,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = SFTTrainer(
            model=load_model(folder, tokenizer),
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        seconds = float(trainer.train().metrics["train_runtime"])
        return trainer.model.merge_and_unload().eval(), seconds


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = [
        [
            name,
            of["tokens_per_s"],
            f"{of['tokens_per_s_range'][0]:.0f}–{of['tokens_per_s_range'][1]:.0f}",
            of["times_trl"],
            of["cpu_s_per_1k_tokens"],
            of["loss"],
        ]
        for name, of in result.items()
        if name != "meta"
    ]
    return table(HEADINGS, rows)
