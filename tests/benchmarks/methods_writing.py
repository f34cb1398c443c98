"""`methods_writing`: what a local teacher's probabilities add, where a student that writes is cut from it.

SmolLM2-135M-Instruct is fine-tuned on recorded answers (LoRA, one pass); that is the teacher. Every student is the
teacher with its 28 most influential layers of 30 (ShortGPT), healed by LoRA from the same few recorded answers, for the
same number of steps and at the same rate: by the answers alone (`hard`, the baseline), by a divergence from the
teacher's probabilities at those answers, kept whole or as its 20 likeliest tokens with the mass of the others
(`top_k`, forward KL), or on answers that the student drew itself (`on_policy`: half of the steps, JSD; `minillm`: all
of them). `width` leaves out as many weights in neurons instead of layers, and heals by the answers. `unhealed` and
`unhealed_width` are the teacher cut and no more. `rounding_aware` is the teacher on the grid of W4A16 after one pass of
learning on that grid from itself, beside the teacher rounded and no more (`rounded`).

The metric is the share of JSON fields that are those of recorded answers which share nothing with what was learned,
decoded greedily; seeds change the order of the texts, the adapters' start and what is drawn. Differences are from the
baseline (with the same seed, where it has seeds), with Student's 95 % interval over seeds. Few texts and few steps, so
that a run takes a minute or two of one thread: an interval that holds 0 shows no gain.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy import stats

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import WrittenText, encode
from stillhouse.distill.causal_lm.quantisation_aware import learn_rounded
from stillhouse.distill.causal_lm.sft import tune
from stillhouse.distill.compression.rounding import round_layers
from stillhouse.distill.pruning.prune import prune
from stillhouse.files import read_json, write_json
from stillhouse.tasks import LanguageModel
from stillhouse.tasks.comparators.fields import field_score
from stillhouse.tasks.comparators.settings import JsonFields
from tests.benchmarks import meta
from tests.benchmarks.report import table, whole_seeds
from tests.benchmarks.writing_data import BASE, answers, base

HOME = meta.ROOT / ".stillhouse" / "bench" / "methods_writing"
TAUGHT, LEARNT, ASKED = 96, 24, 24  # texts: of the teacher, of the students, and those that judge
SELECT = 2  # more texts choose the part of a run that is kept
EPOCHS, RATE, STEP_TOKENS = 1.0, 1e-3, 512
LAYERS, NEURONS = 28, 0.91  # both leave out a fifteenth of the layers' weights
SEEDS = 5
LONGEST = 64  # tokens of an answer; recorded ones have at most about 60
BASELINE = "hard"
METHODS: dict[str, dict[str, Any]] = {
    "hard": {},
    "forward_kl": {"objective": "forward_kl"},
    "reverse_kl": {"objective": "reverse_kl"},
    "jsd": {"objective": "jsd"},
    "skew_kl": {"objective": "skew_kl"},
    "skew_reverse_kl": {"objective": "skew_reverse_kl"},
    "top_k": {"objective": "forward_kl", "top_k": 20},
    "on_policy": {"objective": "jsd", "on_policy": 0.5},
    "minillm": {"objective": "minillm", "on_policy": 1.0},
    "width": {},
}
AWARE, ROUNDED = "rounding_aware", "rounded"
ONCE = ("teacher", "unhealed", "unhealed_width", ROUNDED)  # nothing learns, so one seed says all
HEADINGS = (
    "method",
    "fields right",
    "± over seeds",
    "less the baseline (95 %)",
    "all fields",
    "CPU-min a run",
)


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark; runs that were kept are not done again.

    Interrupted, it gives the figures of the seeds that every method has; there must be two.
    """
    begun = meta.start()
    home = HOME if data is None and not quick else Path(tempfile.mkdtemp(prefix="methods-writing-"))
    learnt, seeds = (16, 1) if quick else (LEARNT, SEEDS)
    found = answers(data, 150, ASKED + SELECT)  # the fewest that are split by answer
    asked, select = found.asked[:ASKED], found.asked[ASKED:]
    home.mkdir(parents=True, exist_ok=True)
    taught = found.learnt[: 40 if quick else TAUGHT]
    texts = taught[:: len(taught) // learnt][:learnt]  # texts of one answer stand together
    room = _Room(home, _teacher(home, taught, select), texts, select, asked)
    runs = {name: [room.once(name, 0)] for name in ONCE}
    taught_by = (*METHODS, AWARE)
    try:
        for seed in range(seeds):
            for name in taught_by:
                runs.setdefault(name, []).append(room.once(name, seed))
    except KeyboardInterrupt:
        seeds = whole_seeds({name: runs.get(name, ()) for name in taught_by})
        runs |= {name: runs[name][:seeds] for name in taught_by}
    baselines = dict.fromkeys(METHODS, runs[BASELINE]) | {AWARE: runs[ROUNDED] * seeds}
    result: dict[str, Any] = {name: _figures(of, baselines.get(name)) for name, of in runs.items()}
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
            threads=1,
        )
        staging = home / ".teacher"
        tuned.model.save_pretrained(str(staging), safe_serialization=True)
        tuned.tokenizer.save_pretrained(str(staging))
        staging.rename(folder)
        shutil.rmtree(checkpoints)
    return folder


def _cut(home: Path, teacher: Path, how: str, texts: Sequence[WrittenText]) -> Path:
    """The folder of the teacher cut in depth (`layers`) or `width`, made once: healing starts from it."""
    folder = home / how
    if not folder.is_dir():
        kept = {"keep_layers": LAYERS} if how == "layers" else {"keep_neurons": NEURONS}
        tokenizer = load_tokenizer(teacher)
        model = load_model(teacher, tokenizer)
        candidate = LanguageModel.model_validate({"architecture": "causal_lm", "base": str(teacher), **kept})
        prune(model, candidate, encode(tokenizer, texts, 768)[0], int(tokenizer.eos_token_id))
        staging = home / f".{how}"
        model.save_pretrained(str(staging), safe_serialization=True)
        tokenizer.save_pretrained(str(staging))
        staging.rename(folder)
    return folder


@dataclass(frozen=True, slots=True)
class _Room:
    """What all runs share."""

    home: Path
    teacher: Path
    texts: list[WrittenText]
    select: list[WrittenText]
    asked: list[WrittenText]

    def once(self, name: str, seed: int) -> dict[str, float]:
        """One run's figures: of a run that was kept, or of one that is kept now."""
        kept = self.home / "runs" / f"{name}-{seed}.json"
        found: dict[str, float] | None = read_json(kept)
        if found is None:
            before = time.process_time()
            model = self._model(name, seed)
            minutes = (time.process_time() - before) / 60
            found = _judge(model, load_tokenizer(self.teacher), self.asked) | {"minutes": minutes}
            kept.parent.mkdir(exist_ok=True)
            write_json(kept, found)
            print(f"{name} {seed}: {json.dumps(found)}", flush=True)
            del model
            gc.collect()
        return found

    def _model(self, name: str, seed: int) -> Any:
        tokenizer = load_tokenizer(self.teacher)
        if name == AWARE:
            return self._rounded_aware(tokenizer, seed)
        if name in METHODS:
            return self._healed(name, seed)
        if name.startswith("unhealed"):
            return load_model(self._cut_as(name), tokenizer)
        model = load_model(self.teacher, tokenizer)
        if name == ROUNDED:
            round_layers(model, "w4a16")
        return model

    def _cut_as(self, name: str) -> Path:
        return _cut(self.home, self.teacher, "width" if name.endswith("width") else "layers", self.texts)

    def _healed(self, name: str, seed: int) -> Any:
        base, given = self._cut_as(name), METHODS[name]
        candidate = LanguageModel(
            architecture="causal_lm",
            base=str(base),
            method="lora",
            teacher_model=str(self.teacher) if "objective" in given else None,
            epochs=EPOCHS,
            learning_rate=RATE,
            batch_size=STEP_TOKENS,
            step_tokens=STEP_TOKENS,
            max_new_tokens=LONGEST,
            seed=seed,
            **given,
        )
        with tempfile.TemporaryDirectory(dir=self.home) as scratch:
            if candidate.teacher_model is not None:
                # What the teacher says of the texts is the same for every seed and every divergence.
                scores = self.home / f"scores-{candidate.top_k or 'states'}"
                scores.mkdir(exist_ok=True)
                (Path(scratch) / "scores").symlink_to(scores.absolute())
            tuned = tune(
                candidate,
                base,
                self.texts,
                self.select,
                on_progress=lambda part: None,
                checkpoint_dir=Path(scratch),
                threads=1,
                teacher=self.teacher if candidate.teacher_model is not None else None,
            )
        return tuned.model

    def _rounded_aware(self, tokenizer: Any, seed: int) -> Any:
        candidate = LanguageModel(
            architecture="causal_lm",
            base=str(self.teacher),
            quantization_aware_epochs=EPOCHS,
            batch_size=STEP_TOKENS,
            step_tokens=STEP_TOKENS,
            seed=seed,
        )
        with tempfile.TemporaryDirectory(dir=self.home) as scratch:
            out = Path(scratch) / "learnt"
            learn_rounded(candidate, self.teacher, out, "w4a16", self.texts, self.select, threads=1)
            model = load_model(out, tokenizer)
        round_layers(model, "w4a16")
        return model


@torch.no_grad()
def _judge(model: Any, tokenizer: Any, asked: Sequence[WrittenText]) -> dict[str, float]:
    """Shares of fields and of whole answers that are right, decoded greedily."""
    model.eval()
    judged, _ = encode(tokenizer, asked, 768)
    end = int(tokenizer.eos_token_id)
    said: list[str] = []
    for start in range(0, len(judged), ASKED):
        chosen = judged[start : start + ASKED]
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
