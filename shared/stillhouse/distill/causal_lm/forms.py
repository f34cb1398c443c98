"""In which form a tuned model serves: as it is, or quantised. Measured on what it was not trained on, not assumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from stillhouse.distill.causal_lm.examples import WrittenText, messages_of
from stillhouse.distill.compression.quantise import quantise
from stillhouse.distill.confidence import fit_confidence
from stillhouse.files import read_json, write_json
from stillhouse.models.causal_lm import CausalLmSpec, Quantization
from stillhouse.models.confidence import Confidence, Kind, written_signals
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.asking import Written, ask_all
from stillhouse.models.vllm.recorded import Recorded, write_recorded
from stillhouse.models.vllm.served import ServedStudent
from stillhouse.models.vllm.supported import choices, detect, refusal
from stillhouse.tasks.students import LanguageModel

CALIBRATION: Final = 128  # conversations that quantisation looks at
MOST_ASKED: Final = 300  # select cases that a form is asked

Same = Callable[[str, str], bool]
Report = Callable[..., object]
Rounded = Literal["w8a8", "w4a16"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One form on the select cases: agreement with the teacher without any threshold, and what answering took."""

    quantization: Quantization
    n: int
    agreement: float
    failures: int
    bytes: int
    cpu_s_per_token: float
    tokens_per_s: float
    tokens: int = 0  # of all questions, with their prompts, and answers


@dataclass(frozen=True, slots=True)
class Form:
    """The chosen form: its folder is complete but for the manifest. `cpu_s`: what the replicas took now."""

    folder: Path
    spec: CausalLmSpec
    measured: tuple[Measured, ...]
    refused: dict[str, str]
    cpu_s: float = 0.0


def wanted_forms(candidate: LanguageModel) -> tuple[tuple[Quantization, ...], dict[str, str]]:
    """Which forms to measure, and why others are not. Raises `ModelError` where the one that is asked for cannot serve.

    `auto` measures the model as it is and the best quantised form that the machine can run.
    """
    target = detect(with_gpu=False)
    if candidate.quantization != "auto":
        if (why := refusal(candidate.quantization, target)) is not None:
            raise ModelError(f"student.quantization {candidate.quantization}: {why}")
        forms: tuple[Quantization, ...] = (
            ("none",) if candidate.quantization == "none" else ("none", candidate.quantization)
        )
        return forms, {}
    best = [one for one in choices(target) if one != "none"]
    refused = {one: why for one in get_args(Quantization) if (why := refusal(one, target)) is not None}
    return ("none", *best[:1]), refused


def choose_form(
    plain: Path,
    spec: CausalLmSpec,
    candidate: LanguageModel,
    train: Sequence[WrittenText],
    select: Sequence[WrittenText],
    same: Same,
    home: Path,
    work: Path,
    confidence: Kind,
    report: Report,
) -> Form:
    """Measure every form of the checkpoint `plain`, choose one, and fit its confidence on what it answered.

    A quantised form that loses more than `max_quantization_loss` of the agreement learns to be rounded, where the rung
    has epochs for that, and is else refused. Of the others the one with the least CPU per token serves. `work` keeps
    what was measured, so that a job that died goes on there.
    """
    forms, refused = wanted_forms(candidate)
    asked = list(select)[-MOST_ASKED:]
    found: dict[Quantization, tuple[Path, Measured, list[Written]]] = {}
    spent = 0.0
    for form in forms:
        folder = plain
        if form != "none":
            folder = work / form
            if not folder.exists():
                report("quantising", 0.0, quantization=form)
                quantise(plain, folder, form, [_conversation(text, spec) for text in train[-CALIBRATION:]])
        measured, answers, cpu_s = _measure(folder, replace(spec, quantization=form), asked, same, home, work, report)
        found[form] = (folder, measured, answers)
        spent += cpu_s
    plainly = found["none"][1]
    kept = dict(found)
    for form in forms:
        lost = plainly.agreement - found[form][1].agreement
        if lost > candidate.max_quantization_loss and candidate.quantization_aware_epochs and form in ("w8a8", "w4a16"):
            folder = _learned(form, plain, candidate, train, select, work, report)
            measured, answers, cpu_s = _measure(
                folder, replace(spec, quantization=form), asked, same, home, work, report, aware=True
            )
            found[form] = (folder, measured, answers)
            spent += cpu_s
            lost = plainly.agreement - measured.agreement
            kept[form] = found[form]
        if form != "none" and lost > candidate.max_quantization_loss:
            refused[form] = f"agreement falls from {plainly.agreement:.3f} to {found[form][1].agreement:.3f}"
            del kept[form]
    if candidate.quantization not in ("auto", "none") and candidate.quantization not in kept:
        raise ModelError(
            f"student.quantization {candidate.quantization}: {refused[candidate.quantization]}, which is more than "
            f"max_quantization_loss {candidate.max_quantization_loss:g}; allow more, or use another."
        )
    named = candidate.quantization
    chosen: Quantization = named if named != "auto" else min(kept, key=lambda form: found[form][1].cpu_s_per_token)
    folder, measured, answers = found[chosen]
    fitted = replace(
        spec,
        quantization=chosen,
        cpu_s_per_token=measured.cpu_s_per_token,
        confidence=_confidence(confidence, answers, [text.answer for text in asked], same),
    )
    _record(folder, fitted, asked, answers, home)
    return Form(folder, fitted, tuple(one for _, one, _ in found.values()), refused, spent)


def _learned(
    form: Rounded,
    plain: Path,
    candidate: LanguageModel,
    train: Sequence[WrittenText],
    select: Sequence[WrittenText],
    work: Path,
    report: Report,
) -> Path:
    """The quantised checkpoint of the model after it learned to be rounded; made by an earlier attempt, or now."""
    from stillhouse.distill.causal_lm.quantisation_aware import learn_rounded  # imports torch

    learned, folder = work / f"{form}-learned", work / f"{form}-aware"
    if not learned.exists():
        learn_rounded(
            candidate,
            plain,
            learned,
            form,
            train,
            select,
            on_progress=lambda part: report("learning rounded", part.fraction, quantization=form),
            threads=os.cpu_count() or 1,
        )
    if not folder.exists():
        report("quantising", 0.0, quantization=form)
        quantise(learned, folder, form, [], rounded=True)
    return folder


def _measure(
    folder: Path,
    spec: CausalLmSpec,
    asked: Sequence[WrittenText],
    same: Same,
    home: Path,
    work: Path,
    report: Report,
    *,
    aware: bool = False,
) -> tuple[Measured, list[Written], float]:
    name = f"{spec.quantization}-aware" if aware else spec.quantization
    kept, spent = work / f"measured-{name}.json", 0.0
    known: dict[str, Any] | None = read_json(kept)
    if known is None:
        # A replica is named by its student; two forms of one student are two replicas.
        replace(spec, student_id=f"{spec.student_id}-{name}").write(folder)
        said = ask_all(
            folder,
            home,
            [text.request for text in asked],
            lambda phase, share: report("measuring", share, quantization=spec.quantization, step=phase),
        )
        spent = said.spent_cpu_s
        tokens = max(1, sum(answer.tokens for answer in said.answers))
        measured = Measured(
            spec.quantization,
            len(asked),
            sum(same(one.output, text.answer) for one, text in zip(said.answers, asked, strict=True)) / len(asked),
            sum(bool(one.error) for one in said.answers),
            sum(path.stat().st_size for path in folder.iterdir()),
            said.cpu_seconds / tokens,
            tokens / said.seconds,
            tokens,
        )
        known = {"measured": asdict(measured), "answers": [asdict(answer) for answer in said.answers]}
        write_json(kept, known)
    answers = [
        Written(**{**one, "log_probs": tuple(one["log_probs"]), "margins": tuple(one["margins"])})
        for one in known["answers"]
    ]
    return Measured(**known["measured"]), answers, spent


def _confidence(kind: Kind, answers: Sequence[Written], teacher: Sequence[str], same: Same) -> Confidence:
    """The confidence that the task asks for; the length-normalised one where too little is there to learn from."""
    if kind != "learned":
        return Confidence(kind)
    pairs = [(one, same(one.output, said)) for one, said in zip(answers, teacher, strict=True) if one.log_probs]
    if not pairs:
        return Confidence()
    signals = np.stack([written_signals(one.log_probs, one.margins) for one, _ in pairs])
    return fit_confidence(signals, np.array([agrees for _, agrees in pairs])) or Confidence()


def _record(
    folder: Path, spec: CausalLmSpec, asked: Sequence[WrittenText], answers: Sequence[Written], home: Path
) -> None:
    """Keep the answers that it was surest of: whatever serves it must give them again."""
    spec.write(folder)
    student = ServedStudent(folder, home)
    kept: dict[str, Recorded] = {}
    for text, said in sorted(zip(asked, answers, strict=True), key=lambda pair: -pair[1].confidence):
        if not said.error:
            kept.setdefault(said.output, Recorded(student.recordable(text.request), said.output))
    write_recorded(folder, list(kept.values()))


def _conversation(text: WrittenText, spec: CausalLmSpec) -> list[dict[str, str]]:
    asked = text.request.with_examples(spec.examples).with_instruction(spec.instruction)
    return [*messages_of(asked), {"role": "assistant", "content": text.answer}]


def copy_weights(source: Path, target: Path) -> None:
    """The checkpoint's files to the new folder `target`."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
