"""Makes a student that writes: tuned or prompted, measured in every form that could serve, published in the best."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.trainer.next_rung import next_rung_cpu_s, weights_of
from stillhouse.bus.jobs import read_json, write_json
from stillhouse.environments.environment import root
from stillhouse.events import ArtefactRef
from stillhouse.models.artefact import publish
from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.tasks import LanguageModel, Task
from stillhouse.tasks.comparators import comparator_of

if TYPE_CHECKING:
    from services.trainer.job import Progress, Taught
    from stillhouse.distill.causal_lm.examples import WrittenText
    from stillhouse.distill.causal_lm.forms import Measured

CURVES_FILE: Final = "curves.json"


def make_writer(
    folder: Path,
    task: Task,
    candidate: LanguageModel,
    student_id: str,
    target: Path,
    train_rows: list[Taught],
    select_rows: list[Taught],
    home: Path,
    curves: list[dict[str, Any]],
    report: Progress,
) -> tuple[ArtefactRef, dict[str, Any]]:
    """The published artefact of one language model, and its numbers. Raises `ModelError`, `OSError`."""
    try:
        compare = comparator_of(task, home)
    except ValueError as error:
        raise ModelError(f"The task's comparator cannot be used: {error}.") from None
    report("imports", 0.0)
    # Here and not above: importing torch takes seconds, and bad data should be found without it.
    from stillhouse.distill.causal_lm.base import base_folder
    from stillhouse.distill.causal_lm.forms import choose_form, copy_weights, wanted_forms

    wanted_forms(candidate)  # what the machine cannot serve is refused before it is trained
    report("base", 0.0)
    base = base_folder(candidate.base, root().parent / "bases")
    teacher = None if candidate.teacher_model is None else base_folder(candidate.teacher_model, root().parent / "bases")
    train, select = [_text(one) for one in train_rows], [_text(one) for one in select_rows]
    examples: tuple[tuple[str, str], ...] = ()
    instruction = ""
    if not candidate.learns:
        merged, numbers, examples = _prompted(folder, candidate, base, train, report)
        if candidate.method == "prompt":
            spec = _spec_of(student_id, task, candidate, base, numbers, examples)
            instruction = _instructed(folder, spec, merged, candidate, train, compare.same, home, numbers, report)
    else:
        merged, numbers = _tuned(folder, candidate, base, teacher, train, select, curves, report)
    spec = replace(_spec_of(student_id, task, candidate, base, numbers, examples), instruction=instruction)
    form = choose_form(
        merged, spec, candidate, train, select, compare.same, home, folder, task.cascade.confidence, report
    )
    report.beside_s += form.cpu_s
    numbers |= _next_rung(task, candidate, form.measured[0], numbers, len(train), base)
    report("publishing", 1.0)
    staging = target.with_name(f".{student_id}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    copy_weights(form.folder, staging)
    form.spec.write(staging)
    by_form = {
        f"{one.quantization}_{name}": float(value)
        for one in form.measured
        for name, value in asdict(one).items()
        if name != "quantization"
    }
    chosen = next(one for one in form.measured if one.quantization == form.spec.quantization)
    said = {"quantization": form.spec.quantization, "refused": form.refused, "base": candidate.base, "runtime": "vllm"}
    numbers |= by_form | {"agreement": chosen.agreement, "bytes": chosen.bytes} | said
    write_json(folder / "export.json", numbers)
    return publish(staging, target), numbers


def _next_rung(
    task: Task, candidate: LanguageModel, plainly: Measured, numbers: dict[str, Any], examples: int, base: Path
) -> dict[str, float]:
    """What the rung above would take to make, where there is one and its base is here."""
    rung = next((place for place, one in enumerate(task.students) if one == candidate), len(task.students)) + 1
    following = task.students[rung] if rung < len(task.students) else None
    if not isinstance(following, LanguageModel):
        return {}
    known = root().parent / "bases" / following.base  # not fetched for this
    weights, its = weights_of(base), weights_of(known if known.is_dir() else Path(following.base))
    if weights is None or its is None:
        return {}
    prompt = numbers.get("prompt_tokens", 0)
    cpu_s = next_rung_cpu_s(
        following,
        cpu_s_per_token=plainly.cpu_s_per_token,
        tokens_per_example=max(1.0, plainly.tokens / plainly.n - prompt),
        examples=examples,
        weights=weights,
        following_weights=its,
    )
    return {"next_rung_cpu_s": cpu_s}


def _spec_of(
    student_id: str,
    task: Task,
    candidate: LanguageModel,
    base: Path,
    numbers: dict[str, Any],
    examples: tuple[tuple[str, str], ...],
) -> CausalLmSpec:
    longest = _longest(base, candidate)
    return CausalLmSpec(
        student_id,
        candidate.base,
        max_model_len=min(longest, numbers.get("prompt_tokens", 0) + candidate.max_tokens + candidate.max_new_tokens),
        max_new_tokens=candidate.max_new_tokens,
        response_schema=_schema(task),
        examples=examples,
    )


def _tuned(
    folder: Path,
    candidate: LanguageModel,
    base: Path,
    teacher: Path | None,
    train: list[WrittenText],
    select: list[WrittenText],
    curves: list[dict[str, Any]],
    report: Progress,
) -> tuple[Path, dict[str, Any]]:
    """The folder of the tuned model, merged; made by an earlier attempt, or now."""
    from stillhouse.distill.causal_lm.saving import FIGURES, MERGED, save
    from stillhouse.distill.causal_lm.sft import tune

    numbers = read_json(folder / FIGURES)
    if numbers is not None:
        return folder / MERGED, numbers

    def on_progress(part: dict[str, Any]) -> None:
        curves.append(part)
        write_json(folder / CURVES_FILE, curves)
        report("training", part["fraction"], **{k: v for k, v in part.items() if k != "fraction"})

    report("training", 0.0)
    if candidate.processes > 1:
        numbers = _together(folder, candidate, base, teacher, train, select, on_progress)
    else:
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        tuned = tune(
            candidate,
            base,
            train,
            select,
            on_progress=lambda part: on_progress(asdict(part)),
            checkpoint_dir=checkpoints,
            threads=os.cpu_count() or 1,
            teacher=teacher,
        )
        report("merging", 1.0)
        numbers = save(tuned, folder)
    return folder / MERGED, numbers


def _together(
    folder: Path,
    candidate: LanguageModel,
    base: Path,
    teacher: Path | None,
    train: list[WrittenText],
    select: list[WrittenText],
    on_progress: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train in several processes of torchrun, in a folder that is gone when they end well. Raises `ModelError`."""
    from stillhouse.distill.causal_lm.saving import FIGURES, MERGED, write_texts
    from stillhouse.distill.together import launch

    work = folder / "together"
    work.mkdir(exist_ok=True)
    (work / "error.json").unlink(missing_ok=True)
    threads = max(1, (os.cpu_count() or 1) // candidate.processes)
    job = {
        "student": candidate.model_dump(mode="json"),
        "base": str(base),
        "teacher": None if teacher is None else str(teacher),
        "threads": threads,
    }
    write_json(work / "job.json", job)
    write_texts(work / "train.jsonl", train)
    write_texts(work / "select.jsonl", select)
    launch("stillhouse.distill.causal_lm", work, candidate.processes, threads, on_progress)
    shutil.rmtree(folder / MERGED, ignore_errors=True)
    os.rename(work / MERGED, folder / MERGED)
    numbers: dict[str, Any] = read_json(work / FIGURES)
    write_json(folder / FIGURES, numbers)
    shutil.rmtree(work)  # it holds texts
    return numbers


def _prompted(
    folder: Path, candidate: LanguageModel, base: Path, train: list[WrittenText], report: Progress
) -> tuple[Path, dict[str, Any], tuple[tuple[str, str], ...]]:
    """The folder of the base model as it is, and the examples for its prompt; of an earlier attempt, or now."""
    from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
    from stillhouse.distill.causal_lm.few_shot import choose_examples, prompt_tokens
    from stillhouse.distill.causal_lm.saving import MERGED

    merged, kept = folder / MERGED, folder / "prompted.json"
    made = read_json(kept)
    if made is None:
        report("choosing", 0.0)
        tokenizer = load_tokenizer(base)
        model = load_model(base, tokenizer)
        chosen = choose_examples(model, tokenizer, train, candidate.shots, candidate.example_tokens, candidate.seed)
        shutil.rmtree(merged, ignore_errors=True)
        model.save_pretrained(str(merged), safe_serialization=True)
        tokenizer.save_pretrained(str(merged))
        numbers = {"shots": len(chosen), "prompt_tokens": prompt_tokens(tokenizer, chosen)}
        made = {"numbers": numbers, "examples": [(text.request.question, text.answer) for text in chosen]}
        write_json(kept, made)
    return merged, made["numbers"], tuple((asked, said) for asked, said in made["examples"])


def _instructed(
    folder: Path,
    spec: CausalLmSpec,
    merged: Path,
    candidate: LanguageModel,
    train: list[WrittenText],
    same: Callable[[str, str], bool],
    home: Path,
    numbers: dict[str, Any],
    report: Progress,
) -> str:
    """The instruction that GEPA found, of an earlier attempt or now; adds what it took to `numbers`."""
    from services.trainer.prompting import find_instruction
    from stillhouse.bus.jobs import read_json
    from stillhouse.distill.causal_lm.base import load_tokenizer

    kept = folder / "instruction.json"
    made = read_json(kept)
    if made is None:
        report("optimising the prompt", 0.0)
        replace(spec, student_id=f"{spec.student_id}-prompt").write(merged)
        found = asyncio.run(find_instruction(merged, home, candidate, train, same, report))
        tokens = len(load_tokenizer(merged)(found.text)["input_ids"])
        made = {"text": found.text, "tokens": tokens, "numbers": found.numbers(), "cpu_s": found.cpu_s}
        write_json(kept, made)
        report.beside_s += found.cpu_s
    numbers |= made["numbers"]
    numbers["prompt_tokens"] += made["tokens"]
    return str(made["text"])


def _text(one: Taught) -> WrittenText:
    from stillhouse.distill.causal_lm.examples import WrittenText

    return WrittenText(ChatRequest.of(one.row["input_type"], one.row["input"]), one.row["output"], one.weight)


def _longest(base: Path, candidate: LanguageModel) -> int:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return int(config.get("max_position_embeddings") or candidate.max_tokens + candidate.max_new_tokens)


def _schema(task: Task) -> dict[str, Any] | None:
    if task.response_schema is None:
        return None
    schema: dict[str, Any] = json.loads(task.response_schema.read_text(encoding="utf-8"))
    return schema
