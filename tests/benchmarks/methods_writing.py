"""`methods_writing`: what a local teacher's probabilities add, where a student that writes is cut from it in depth.

SmolLM2-135M-Instruct is fine-tuned on recorded answers (LoRA, one pass); that is the teacher. Every student is the
teacher with only its 16 most influential layers of 30 (ShortGPT), healed by LoRA from the same few recorded answers,
for the same number of steps and at the same rate: by the answers alone (`hard`, the baseline), by a divergence from the
teacher's probabilities at those answers, kept whole or as its 20 likeliest tokens with the mass of the others
(`top_k`, forward KL), or with half of the steps on answers that the student drew itself (`on_policy`, JSD). `unhealed`
is the teacher cut and no more. The metric is the share of JSON fields that are those of recorded answers which share
nothing with what was learned, decoded greedily; seeds change the order of the texts, the adapters' start and what is
drawn. Differences are from the baseline with the same seed, with Student's 95 % interval over seeds. Few texts
and few steps, so that the whole takes half an hour on one core: an interval that holds 0 shows no gain.
"""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy import stats

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import Encoded, WrittenText, encode
from stillhouse.distill.causal_lm.sft import tune
from stillhouse.distill.pruning.prune import prune
from stillhouse.files import read_json, write_json
from stillhouse.tasks import LanguageModel
from stillhouse.tasks.comparators.fields import field_score
from stillhouse.tasks.comparators.settings import JsonFields
from tests.benchmarks import meta
from tests.benchmarks.report import table
from tests.benchmarks.writing_data import BASE, answers, base

HOME = meta.ROOT / ".stillhouse" / "bench" / "methods_writing"
TAUGHT, LEARNT, ASKED = 96, 24, 20  # texts: of the teacher, of the students, and those that judge
SELECT = 2  # more texts choose the part of a run that is kept
EPOCHS, RATE, STEP_TOKENS, LAYERS = 1.0, 1e-3, 512, 16
SEEDS = 5
LONGEST = 64  # tokens of an answer; recorded ones have at most about 60
BASELINE = "hard"
METHODS: dict[str, dict[str, Any]] = {
    "hard": {},
    "forward_kl": {"objective": "forward_kl"},
    "reverse_kl": {"objective": "reverse_kl"},
    "jsd": {"objective": "jsd"},
    "skew_kl": {"objective": "skew_kl"},
    "top_k": {"objective": "forward_kl", "top_k": 20},
    "on_policy": {"objective": "jsd", "on_policy": 0.5},
}
HEADINGS = (
    "method",
    "fields right",
    "± over seeds",
    "less the baseline (95 %)",
    "all fields",
    "CPU-min a run",
)


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    home = HOME if data is None and not quick else Path(tempfile.mkdtemp(prefix="methods-writing-"))
    learnt, seeds = (16, 1) if quick else (LEARNT, SEEDS)
    found = answers(data, 150, ASKED + SELECT)  # the fewest that are split by answer
    asked, select = found.asked[:ASKED], found.asked[ASKED:]
    home.mkdir(parents=True, exist_ok=True)
    taught = found.learnt[: 40 if quick else TAUGHT]
    texts = taught[:: len(taught) // learnt][:learnt]  # texts of one answer stand together
    teacher = _teacher(home, taught, select)
    tokenizer = load_tokenizer(teacher)
    judged, _ = encode(tokenizer, asked, 768)
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        for method in METHODS:
            kept = home / "runs" / f"{method}-{seed}.json"
            figures: dict[str, float] | None = read_json(kept)
            if figures is None:
                before = time.process_time()
                model = _student(home, teacher, method, texts, select, seed)
                minutes = (time.process_time() - before) / 60
                figures = _judge(model, tokenizer, judged, asked) | {"minutes": minutes}
                kept.parent.mkdir(exist_ok=True)
                write_json(kept, figures)
                print(f"{method} {seed}: {json.dumps(figures)}", flush=True)
                del model
                gc.collect()
            runs.setdefault(method, []).append(figures)
    once = {name: read_json(home / "runs" / f"{name}.json") for name in ("teacher", "unhealed")}
    for name in once:
        if once[name] is None:
            once[name] = _once(name, teacher, tokenizer, judged, asked, texts)
            write_json(home / "runs" / f"{name}.json", once[name])
    result: dict[str, Any] = {name: _figures(of, runs[BASELINE]) for name, of in runs.items()}
    result |= {name: _figures([of], None) for name, of in once.items() if of is not None}
    packages = ("torch", "transformers", "peft")
    result["meta"] = meta.finish(begun, repeats=seeds, quick=quick, data=found.name, packages=packages)
    result["meta"]["texts"] = {"taught": len(taught), "learnt": len(texts), "asked": len(asked)}
    result["meta"]["student"] = {"layers": LAYERS, "epochs": EPOCHS, "learning_rate": RATE, "step_tokens": STEP_TOKENS}
    if home != HOME:
        shutil.rmtree(home)
    return result


def _figures(runs: Sequence[dict[str, float]], baseline: Sequence[dict[str, float]] | None) -> dict[str, Any]:
    fields = [one["fields"] for one in runs]
    found: dict[str, Any] = {
        "metric": "share of fields right",
        "mean": mean(fields),
        "std": stdev(fields) if len(fields) > 1 else None,
        "seeds": len(fields),
        "exact": mean(one["exact"] for one in runs),
        "minutes": mean(one["minutes"] for one in runs),
    }
    if baseline is not None:
        differences = [one["fields"] - other["fields"] for one, other in zip(runs, baseline, strict=True)]
        found["hard_label_baseline_mean"] = mean(one["fields"] for one in baseline)
        found["difference"] = mean(differences)
        found["difference_ci"] = _interval(differences)
    return found


def _interval(differences: Sequence[float]) -> list[float] | None:
    """Student's 95 % interval of the mean; None for a single seed."""
    if len(differences) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * stdev(differences) / math.sqrt(len(differences))
    return [mean(differences) - half, mean(differences) + half]


def _teacher(home: Path, taught: Sequence[WrittenText], select: Sequence[WrittenText]) -> Path:
    """The folder of the tuned teacher, made once."""
    folder = home / "teacher"
    if not folder.is_dir():
        checkpoints = home / "teaching"
        checkpoints.mkdir(exist_ok=True)
        candidate = LanguageModel(architecture="causal_lm", base=BASE, epochs=1, batch_size=512, step_tokens=1024)
        tuned = tune(
            candidate,
            base(),
            taught,
            select,
            on_progress=lambda part: print(f"teacher {part.fraction:.0%}, loss {part.select_loss:.3f}", flush=True),
            checkpoint_dir=checkpoints,
            threads=_threads(),
        )
        staging = home / ".teacher"
        tuned.model.save_pretrained(str(staging), safe_serialization=True)
        tuned.tokenizer.save_pretrained(str(staging))
        staging.rename(folder)
        shutil.rmtree(checkpoints)
    return folder


def _student(
    home: Path, teacher: Path, method: str, learnt: Sequence[WrittenText], select: Sequence[WrittenText], seed: int
) -> Any:
    candidate = _candidate(teacher, method, seed)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        if candidate.teacher_model is not None:
            # What the teacher says of the texts is the same for every seed and every divergence.
            scores = home / f"scores-{candidate.top_k or 'states'}"
            scores.mkdir(exist_ok=True)
            (Path(scratch) / "scores").symlink_to(scores.absolute())
        tuned = tune(
            candidate,
            teacher,
            learnt,
            select,
            on_progress=lambda part: None,
            checkpoint_dir=Path(scratch),
            threads=_threads(),
            teacher=teacher if candidate.teacher_model is not None else None,
        )
    return tuned.model


def _candidate(teacher: Path, method: str, seed: int) -> LanguageModel:
    given = METHODS[method]
    return LanguageModel(
        architecture="causal_lm",
        base=str(teacher),
        method="lora",
        teacher_model=str(teacher) if "objective" in given else None,
        keep_layers=LAYERS,
        epochs=EPOCHS,
        learning_rate=RATE,
        batch_size=STEP_TOKENS,
        step_tokens=STEP_TOKENS,
        max_new_tokens=LONGEST,
        seed=seed,
        **given,
    )


def _cut(teacher: Path, tokenizer: Any, encoded: Sequence[Encoded]) -> Any:
    model = load_model(teacher, tokenizer)
    prune(model, _candidate(teacher, BASELINE, 0), encoded, int(tokenizer.eos_token_id))
    return model


def _once(
    name: str,
    teacher: Path,
    tokenizer: Any,
    judged: Sequence[Encoded],
    asked: Sequence[WrittenText],
    learnt: Sequence[WrittenText],
) -> dict[str, float]:
    """The teacher itself, or what is left of it before anything is healed."""
    encoded, _ = encode(tokenizer, learnt, 768)
    model = load_model(teacher, tokenizer) if name == "teacher" else _cut(teacher, tokenizer, encoded)
    return _judge(model, tokenizer, judged, asked) | {"minutes": 0.0}


@torch.no_grad()
def _judge(model: Any, tokenizer: Any, judged: Sequence[Encoded], asked: Sequence[WrittenText]) -> dict[str, float]:
    """Shares of fields and of whole answers that are right, decoded greedily."""
    model.eval()
    end = int(tokenizer.eos_token_id)
    said: list[str] = []
    for start in range(0, len(judged), 20):
        chosen = judged[start : start + 20]
        widest = max(one.answer_at for one in chosen)
        ids = torch.full((len(chosen), widest), end)
        mask = torch.zeros((len(chosen), widest), dtype=torch.long)
        for row, one in enumerate(chosen):
            ids[row, widest - one.answer_at :] = torch.from_numpy(one.ids[: one.answer_at].astype("int64"))
            mask[row, widest - one.answer_at :] = 1
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=LONGEST,
            eos_token_id=end,
            pad_token_id=end,
            repetition_penalty=1.0,
        )
        said += [tokenizer.decode(row, skip_special_tokens=True) for row in found[:, widest:]]
    scores = [field_score(JsonFields(kind="json"), ours, text.answer) for ours, text in zip(said, asked, strict=True)]
    return {
        "fields": mean(scores),
        "exact": mean(score == 1.0 for score in scores),
    }


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = []
    for name, of in result.items():
        if name == "meta":
            continue
        ci = of.get("difference_ci")
        rows.append(
            [
                name,
                of["mean"],
                of["std"],
                f"{of['difference']:+.3f} ({ci[0]:+.3f} to {ci[1]:+.3f})" if ci and name != BASELINE else None,
                of["exact"],
                of["minutes"] or None,
            ]
        )
    return table(HEADINGS, rows)
