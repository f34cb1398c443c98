"""`replies`: two rungs of the ladder on grounded replies: recorded replies in the prompt, or fine-tuned on them.

Customers' turns of Schema-Guided Dialogue after which the assistant had called its service (conversation and results
are in the prompt); the dataset's own replies are the recorded teacher. SmolLM2-135M-Instruct answers turns of the test
split, as it is with four recorded replies before the question (`few_shot`), or fine-tuned on the learnt ones (`lora`,
rank 16, one pass). vLLM serves both. A reply is *ungrounded* where it states a number, code or name that neither the
conversation nor the results hold; dates and times of the results count in the ways in which people say them. The check
blames true replies too: the data keeps three results at most, so that "I found 10" has no ground; what it says of the
recorded replies (`teacher`) is that floor. `wrong` is the share that the check blames although it does not blame the
teacher's reply to the same turn. Word F1 is that of the words of the recorded reply.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import WrittenText, encode
from stillhouse.distill.causal_lm.few_shot import choose_examples
from stillhouse.distill.causal_lm.sft import tune
from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.vllm.asking import Asked, ask_all
from stillhouse.models.vllm.ending import end_replicas
from stillhouse.quality.grounding import Catalogue, claims, ungrounded
from stillhouse.tasks import LanguageModel
from tests.benchmarks import meta
from tests.benchmarks.data import shared
from tests.benchmarks.report import rate, share, table
from tests.benchmarks.writing_data import BASE, base

DATA = "sgd_dialogue"
HOME = meta.ROOT / ".stillhouse" / "bench" / "replies"
LONGEST = 256  # tokens of a turn with its reply: what trains in minutes
SHOTS, SHOT_TOKENS = 4, 768
UNITS = Catalogue(["Fahrenheit", "Celsius", "USD", "AM", "PM", "How"])
_DATE = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_TIME = re.compile(r"\b(\d\d):(\d\d)\b")
HEADINGS = ("system", "ungrounded", "wrong", "claims a reply", "word F1", "CPU-s a reply", "CPU-s to make")


@dataclass(frozen=True, slots=True)
class Turn:
    """A customer's turn with all that came before it, and the recorded reply."""

    asked: str
    reply: str

    def text(self) -> WrittenText:
        """As a student learns it."""
        return WrittenText(ChatRequest.of("text", self.asked), self.reply)


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    folder = data or shared(DATA)
    tokenizer = load_tokenizer(base())
    learnt = _fitting(tokenizer, folder / "train.jsonl.gz", 30 if quick else 150)
    asked = _fitting(tokenizer, folder / "test.jsonl.gz", 15 if quick else 60)
    shutil.rmtree(HOME, ignore_errors=True)
    makers = {"stillhouse_few_shot": _few_shot, "stillhouse_lora": _tuned}
    result: dict[str, Any] = {"teacher": _judged([one.reply for one in asked], asked)}
    try:
        for name, make in makers.items():
            before = time.process_time()
            student = make([one.text() for one in learnt])
            cpu_s = time.process_time() - before
            said = ask_all(student, HOME, [one.text().request for one in asked], _tell(name))
            result[name] = _judged([one.output for one in said.answers], asked) | _cost(said, cpu_s)
    finally:
        end_replicas(HOME)
    packages = ("torch", "transformers", "peft")
    result["meta"] = meta.finish(begun, repeats=1, quick=quick, data=folder.name, packages=packages)
    result["meta"]["turns"] = {"learnt": len(learnt), "asked": len(asked), "tokens_at_most": LONGEST}
    return result


def _fitting(tokenizer: Any, path: Path, wanted: int) -> list[Turn]:
    """The first turns of a file after which a service had answered, short enough; spread over it."""
    if not path.is_file():
        sys.exit(f"{path} is not there; give a folder with train.jsonl.gz and test.jsonl.gz.")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if "RESULTS:" in row["context"]]
    turns = [Turn(f"{row['context']}\nUSER: {row['input']}", row["output"]) for row in rows]
    fitting = [turn for turn in turns if encode(tokenizer, [turn.text()], LONGEST)[0]]
    step = max(1, len(fitting) // wanted)
    return fitting[::step][:wanted]


def _few_shot(learnt: Sequence[WrittenText]) -> Path:
    tokenizer = load_tokenizer(base())
    model = load_model(base(), tokenizer)
    shown = choose_examples(model, tokenizer, learnt, SHOTS, SHOT_TOKENS, 0)
    examples = tuple((text.request.question, text.answer) for text in shown)
    return _written(model, tokenizer, replace(_spec("few-shot"), examples=examples))


def _tuned(learnt: Sequence[WrittenText]) -> Path:
    candidate = LanguageModel(architecture="causal_lm", base=BASE, epochs=1, batch_size=512, step_tokens=1024)
    checkpoints = HOME / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    cut = len(learnt) * 9 // 10
    tuned = tune(
        candidate,
        base(),
        list(learnt[:cut]),
        list(learnt[cut:]),
        on_progress=lambda part: print(f"lora {part.fraction:.0%}, loss {part.select_loss:.3f}", file=sys.stderr),
        checkpoint_dir=checkpoints,
        threads=len(os.sched_getaffinity(0)),
    )
    return _written(tuned.model, tuned.tokenizer, _spec("lora"))


def _spec(name: str) -> CausalLmSpec:
    return CausalLmSpec(f"bench-replies-{name}", BASE, max_model_len=SHOT_TOKENS + 512, max_new_tokens=96)


def _written(model: Any, tokenizer: Any, spec: CausalLmSpec) -> Path:
    folder = HOME / spec.student_id
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
    spec.write(folder)
    return folder


def _tell(name: str) -> Any:
    return lambda phase, part: print(f"{name}: {phase} {part:.0%}", file=sys.stderr)


def _judged(replies: Sequence[str], asked: Sequence[Turn]) -> dict[str, Any]:
    pairs = list(zip(replies, asked, strict=True))
    blamed = [bool(_ungrounded(said, turn)) for said, turn in pairs]
    wrong = [bad and not _ungrounded(turn.reply, turn) for bad, (_, turn) in zip(blamed, pairs, strict=True)]
    return {
        "ungrounded": rate(sum(blamed), len(pairs)),
        "wrong": rate(sum(wrong), len(pairs)),
        "claims": sum(len(claims(said)) for said in replies) / len(pairs),
        "word_f1": sum(_f1(said, turn.reply) for said, turn in pairs) / len(pairs),
    }


def _cost(said: Asked, cpu_s: float) -> dict[str, Any]:
    return {
        "failed": sum(bool(one.error) for one in said.answers) / len(said.answers),
        "cpu_s_per_reply": said.cpu_seconds / len(said.answers),
        "cpu_s_to_make": cpu_s,
    }


def _ungrounded(reply: str, turn: Turn) -> list[str]:
    return ungrounded(reply, [turn.asked, *_spoken(turn.asked)], UNITS)


def _spoken(text: str) -> Iterator[str]:
    """The dates and times of `text` as people say them."""
    for year, month, day in _DATE.findall(text):
        yield f"{date(int(year), int(month), int(day)):%A, %B} {int(day)}, {year}"
    for hour, minute in _TIME.findall(text):
        at = int(hour) % 12 or 12
        yield f"{at}:{minute} {at} {at}:{minute}am {at}:{minute}pm {at}am {at}pm"


def _f1(said: str, wanted: str) -> float:
    ours, theirs = (Counter(re.findall(r"\w+", text.casefold())) for text in (said, wanted))
    common = sum((ours & theirs).values())
    return 2 * common / (sum(ours.values()) + sum(theirs.values())) if common else 0.0


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = [
        [
            name,
            share(of["ungrounded"]),
            share(of["wrong"]) if name != "teacher" else None,
            of["claims"],
            of["word_f1"] if name != "teacher" else None,
            of.get("cpu_s_per_reply"),
            of.get("cpu_s_to_make"),
        ]
        for name, of in result.items()
        if name != "meta"
    ]
    turns = result["meta"]["turns"]
    return f"{table(HEADINGS, rows)}\n\n{turns['learnt']} turns were learnt or chosen from, {turns['asked']} asked."
