"""`schemes`: does it help who teaches, and in which order? Every scheme beside direct distillation, paired by seed.

Each seed draws the texts that teach and choose, and the students' start; all rows of one seed share them. A row's
difference from its baseline is taken seed by seed, with a t interval over the seeds: it says whether the scheme helps a
student of this kind on this data, not by how much it would on yours. Runs are kept under `.stillhouse/bench/schemes`,
so one that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.augmentation.mixup import mixed_up
from stillhouse.distill.augmentation.token_dropout import drop_tokens
from stillhouse.distill.curriculum import Curriculum, by_teacher_confidence
from stillhouse.distill.data import LabelledText
from stillhouse.distill.fitting import fit, mixed, shuffled
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.distill.schedules import Schedule
from stillhouse.distill.schemes.born_again import born_again
from stillhouse.distill.schemes.codistillation import codistil
from stillhouse.distill.schemes.deeper_layers import from_deeper_layers
from stillhouse.distill.schemes.ensembles import (
    averaged,
    by_class,
    by_confidence,
    by_validation,
    class_weights,
    validation_weights,
)
from stillhouse.distill.schemes.lesson import direct
from stillhouse.distill.schemes.mutual import mutual
from stillhouse.distill.schemes.progressive import drop_in_steps, progressive
from stillhouse.distill.selection import least_sure, margins
from stillhouse.distill.training import inputs_of
from stillhouse.models.encoder import SentenceEncoder, ensure_encoder
from stillhouse.models.teacher import fit_head
from tests.benchmarks import meta
from tests.benchmarks.data import load, shared
from tests.benchmarks.peers import HOME
from tests.benchmarks.population import Setting, prepare
from tests.benchmarks.report import percent, table
from tests.benchmarks.schemes_students import ENCODER, NGRAM, Draw, Part

LEARN, SELECT, TEST = 1200, 300, 1500
DEEP = 3  # residual layers of deep n-grams
SEEDS = 5
ENCODER_LEARNS = 600  # texts; a run of the encoder takes half a minute with so many
TEACHERS, GOLD_PER_LABEL = 5, 5
ASKED_FIRST = 500  # texts that a student has learnt from before it chooses as many more

Made = Callable[[Draw, "Pool"], nn.Module]


class Pool:
    """What lies beside a draw: unlabelled texts as the teacher would answer them, five teachers, and the truth."""

    def __init__(self, setting: Setting, gold: dict[str, str]) -> None:
        self.setting, self.gold, self.labels = setting, gold, setting.task.labels
        places = np.random.default_rng(0).permutation(len(setting.test))[:TEST]
        self.test = [setting.test[i] for i in places]
        self.truth = np.array([setting.truth[i] for i in places])
        self.asked = Part.of(self.test, self.labels)
        self._teachers: dict[str, NDArray[np.float64]] = {}

    def draw(self, seed: int) -> Draw:
        """The texts of one seed."""
        random = np.random.default_rng([7, seed])
        learn = [self.setting.train[i] for i in random.permutation(len(self.setting.train))[:LEARN]]
        select = [self.setting.select[i] for i in random.permutation(len(self.setting.select))[:SELECT]]
        return Draw.of(seed, self.labels, learn, select)

    def others(self, draw: Draw, count: int) -> list[LabelledText]:
        """`count` texts that the teacher answered and this draw has not."""
        known = {row.text for row in draw.learn.rows}
        return [row for row in self.setting.train if row.text not in known][:count]

    def teachers(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """What each of five teachers answers, [teachers, n, L]: heads fitted on a few true labels each."""
        if not self._teachers:
            self._fit_teachers()
        return np.stack([self._teachers[text] for text in texts], axis=1)

    def _fit_teachers(self) -> None:
        rows = self.setting.train + self.setting.select + self.test
        texts = [row.text for row in rows]
        encoder = SentenceEncoder(ensure_encoder(HOME / "home"), threads=1)
        vectors, _ = encoder.encode(texts)
        index = {label: place for place, label in enumerate(self.labels)}
        pool = len(self.setting.train)
        answers = np.array([index[self.gold[text]] for text in texts[:pool]])
        said = []
        for teacher in range(TEACHERS):
            order = np.random.default_rng([11, teacher]).permutation(pool)
            seen = {label: 0 for label in range(len(self.labels))}
            chosen = []
            for place in order:
                if seen[int(answers[place])] < GOLD_PER_LABEL:
                    seen[int(answers[place])] += 1
                    chosen.append(int(place))
            held_out = np.arange(len(chosen)) % 5 == 0
            head = fit_head(vectors[chosen], answers[chosen], len(self.labels), held_out)
            logits = (vectors @ head.weights + head.bias) / head.temperature
            logits -= logits.max(axis=1, keepdims=True)
            said.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
        for place, text in enumerate(texts):
            self._teachers[text] = np.stack([one[place] for one in said]).astype(np.float64)


def _hard(draw: Draw, pool: Pool) -> nn.Module:
    student = draw.ngrams()
    direct(student, draw.lesson(NGRAM, soft=None))
    return student


def _direct(draw: Draw, pool: Pool) -> nn.Module:
    student = draw.ngrams()
    direct(student, draw.lesson(NGRAM))
    return student


def _mutual(draw: Draw, pool: Pool) -> nn.Module:
    students = [draw.ngrams(0), draw.ngrams(1)]
    mutual(students, draw.lesson(NGRAM))
    return students[0]


def _mutual_labels(draw: Draw, pool: Pool) -> nn.Module:
    students = [draw.ngrams(0), draw.ngrams(1)]
    mutual(students, draw.lesson(NGRAM, soft=None))
    return students[0]


def _codistillation(draw: Draw, pool: Pool) -> nn.Module:
    students = [draw.ngrams(0), draw.ngrams(1)]
    codistil(students, draw.lesson(NGRAM))
    return students[0]


def _born_again(draw: Draw, pool: Pool) -> nn.Module:
    return born_again(lambda generation: draw.ngrams(generation), draw.lesson(NGRAM), generations=3)[-1]


def _fitted(draw: Draw, loss: Callable[[nn.Module, Tensor, float], Tensor], batches: Any = None) -> nn.Module:
    """A student of n-grams by the common loop, with another loss or other batches than direct distillation's."""
    student, lesson = draw.ngrams(), draw.lesson(NGRAM)
    chosen = lesson.select
    assert chosen is not None
    fit(
        student,
        batches or (lambda epoch, seed: shuffled(len(draw.hard), lesson.batch_size, seed)),
        lambda places, done: loss(student, places, done),
        epochs=lesson.epochs,
        rate=lesson.rate,
        seed=draw.seed,
        select=lambda: chosen(student),
        weight_decay=0.0,
    )
    return student


def _annealed(draw: Draw, pool: Pool) -> nn.Module:
    temperature, alpha = Schedule(4.0, 1.0), Schedule(0.0, 0.5)

    def loss(student: nn.Module, places: Tensor, done: float) -> Tensor:
        logits = draw.learn.says(student, places).logits
        assert logits is not None
        return soft_target_loss(logits, draw.soft[places], draw.hard[places], temperature.at(done), alpha.at(done))

    return _fitted(draw, loss)


def _curriculum(draw: Draw, pool: Pool) -> nn.Module:
    lesson = draw.lesson(NGRAM)
    curriculum = Curriculum.of(by_teacher_confidence(draw.soft.numpy()), start=0.2)

    def batches(epoch: int, seed: int) -> list[Tensor]:
        made = curriculum.batches(epoch / lesson.epochs, lesson.batch_size, seed)
        return [torch.from_numpy(places) for places in made]

    return _fitted(draw, lambda student, places, done: lesson.taught(lesson.logits(student, places), places), batches)


def _token_dropout(draw: Draw, pool: Pool) -> nn.Module:
    lesson, random = draw.lesson(NGRAM), np.random.default_rng(draw.seed)

    def loss(student: nn.Module, places: Tensor, done: float) -> Tensor:
        kept = [drop_tokens(draw.learn.features[int(place)], 0.1, random) for place in places]
        return lesson.taught(student(*inputs_of(kept, tokens=False)).logits, places)

    return _fitted(draw, loss)


def _mixup(draw: Draw, pool: Pool) -> nn.Module:
    generator = torch.Generator().manual_seed(mixed(draw.seed, 0))
    lesson = draw.lesson(NGRAM)

    def loss(student: nn.Module, places: Tensor, done: float) -> Tensor:
        bags = student.bag(*inputs_of([draw.learn.features[int(place)] for place in places], tokens=False))
        bags, soft = mixed_up(bags, draw.soft[places], 0.2, generator)
        logits = student.student.head(bags)
        return soft_target_loss(logits, soft, soft.argmax(dim=1), lesson.temperature, lesson.alpha)

    return _fitted(draw, loss)


def _unlabelled(draw: Draw, pool: Pool) -> nn.Module:
    more = Draw.of(draw.seed, draw.labels, [*draw.learn.rows, *pool.others(draw, LEARN)], draw.select.rows)
    student = more.ngrams()
    direct(student, more.lesson(NGRAM))
    return student


def _asked(how: str) -> Made:
    """A student that has learnt from some texts chooses as many more that the teacher is asked about."""

    def made(draw: Draw, pool: Pool) -> nn.Module:
        rows = list(draw.learn.rows)
        first, rest = Draw.of(draw.seed, draw.labels, rows[:ASKED_FIRST], draw.select.rows), rows[ASKED_FIRST:]
        student = first.ngrams()
        direct(student, first.lesson(NGRAM))
        part = Part.of(rest, draw.labels)
        logits = part.logits(student).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        if how == "margin":
            places = least_sure(margins(said), ASKED_FIRST)
        else:
            places = np.random.default_rng(draw.seed).permutation(len(rest))[:ASKED_FIRST]
        second = Draw.of(
            draw.seed, draw.labels, rows[:ASKED_FIRST] + [rest[place] for place in places], draw.select.rows
        )
        taught = second.ngrams()
        direct(taught, second.lesson(NGRAM))
        return taught

    return made


def _of_teachers(how: str) -> Made:
    """One student of five teachers; what chooses is labelled by them too, and 300 true labels weigh them."""

    def made(draw: Draw, pool: Pool) -> nn.Module:
        said = pool.teachers([row.text for row in draw.learn.rows])
        weighing = pool.teachers([row.text for row in draw.select.rows])
        index = {label: place for place, label in enumerate(draw.labels)}
        truth = np.array([index[pool.gold[row.text]] for row in draw.select.rows])
        if how == "single":
            soft, choosing = said[0], weighing[0]
        elif how == "confidence":
            soft, choosing = by_confidence(said), by_confidence(weighing)
        elif how == "validation":
            weights = validation_weights(weighing, truth)
            soft, choosing = by_validation(said, weights), by_validation(weighing, weights)
        elif how == "class":
            of_class = class_weights(weighing, truth)
            soft, choosing = by_class(said, of_class), by_class(weighing, of_class)
        else:
            soft, choosing = averaged(said), averaged(weighing)
        learn, select = (
            [
                LabelledText(
                    row.text, draw.labels[int(one.argmax())], dict(zip(draw.labels, one.tolist(), strict=True))
                )
                for row, one in zip(rows, answers, strict=True)
            ]
            for rows, answers in ((draw.learn.rows, soft), (draw.select.rows, choosing))
        )
        again = Draw.of(draw.seed, draw.labels, learn, select)
        student = again.ngrams()
        direct(student, again.lesson(NGRAM, **({"soft": None} if how == "labels" else {})))
        return student

    return made


def _deep(layers: int, labels_only: bool = False) -> Made:
    def made(draw: Draw, pool: Pool) -> nn.Module:
        student = draw.deep(layers)
        direct(student, draw.lesson(NGRAM, **({"soft": None} if labels_only else {})))
        return student

    return made


def _deep_from_itself(draw: Draw, pool: Pool) -> nn.Module:
    student = draw.deep(DEEP)
    from_deeper_layers(student, draw.lesson(NGRAM), [f"layer.{place}" for place in range(DEEP - 1)])
    return student


def _deep_dropped(draw: Draw, pool: Pool) -> nn.Module:
    """3 layers, then 2, then 1, each step from the weights and answers of the one before."""
    return drop_in_steps(draw.deep(DEEP), draw.lesson(NGRAM), "layer", [[0, 1], [0]])


def _deep_line(draw: Draw, pool: Pool) -> nn.Module:
    """teacher -> 3 layers -> n-grams alone."""
    line = [draw.deep(DEEP), draw.ngrams()]
    progressive(line, draw.lesson(NGRAM))
    return line[-1]


def _fewer(draw: Draw) -> Draw:
    """The draw's first texts: what students of the encoder learn from."""
    if draw.seed not in _FEWER:
        _FEWER.clear()
        _FEWER[draw.seed] = Draw.of(draw.seed, draw.labels, draw.learn.rows[:ENCODER_LEARNS], draw.select.rows)
    return _FEWER[draw.seed]


_FEWER: dict[int, Draw] = {}  # of the last seed: its states are computed once


def _encoder_hard(draw: Draw, pool: Pool) -> nn.Module:
    student, of = draw.encoder(3), _fewer(draw)
    direct(student, of.lesson(ENCODER, soft=None))
    return student


def _encoder_direct(layers: int) -> Made:
    def made(draw: Draw, pool: Pool) -> nn.Module:
        student = draw.encoder(layers)
        direct(student, _fewer(draw).lesson(ENCODER))
        return student

    return made


def _deeper(draw: Draw, pool: Pool) -> nn.Module:
    student = draw.encoder(3)
    from_deeper_layers(student, _fewer(draw).lesson(ENCODER), ["layer.0"])
    return student


def _assistant(draw: Draw, pool: Pool) -> nn.Module:
    """teacher -> encoder of 3 layers -> n-grams, which learn from what the assistant answers to all their texts."""
    assistant = _encoder_direct(3)(draw, pool)
    student, lesson = draw.ngrams(), draw.lesson(NGRAM)
    direct(student, lesson, lesson.probabilities(assistant))
    return student


def _dropped(draw: Draw, pool: Pool) -> nn.Module:
    """3 layers, then 2, from the weights and answers of the 3."""
    return drop_in_steps(draw.encoder(3), _fewer(draw).lesson(ENCODER), "layer", [[0]])


HARD = ("hard", "deep3_hard", "cut3_hard", "five_teachers_labels")  # baselines that learn from labels alone
# name: (kind of student, baselines that it is compared with, how it is made)
ROWS: dict[str, tuple[str, tuple[str, ...], Made]] = {
    "hard": ("ngrams", (), _hard),
    "direct": ("ngrams", ("hard",), _direct),
    "mutual": ("ngrams", ("direct", "hard"), _mutual),
    "mutual_labels_only": ("ngrams", ("hard", "direct"), _mutual_labels),
    "codistillation": ("ngrams", ("direct", "hard"), _codistillation),
    "born_again": ("ngrams", ("direct", "hard"), _born_again),
    "annealed": ("ngrams", ("direct", "hard"), _annealed),
    "curriculum": ("ngrams", ("direct", "hard"), _curriculum),
    "token_dropout": ("ngrams", ("direct", "hard"), _token_dropout),
    "mixup": ("ngrams", ("direct", "hard"), _mixup),
    "unlabelled_texts": ("ngrams", ("direct", "hard"), _unlabelled),
    "ngrams_of_deep_assistant": ("ngrams", ("direct", "hard"), _deep_line),
    "deep3_hard": ("ngrams", (), _deep(DEEP, labels_only=True)),
    "deep3_direct": ("ngrams", ("deep3_hard",), _deep(DEEP)),
    "deep3_from_deeper_layers": ("ngrams", ("deep3_direct", "deep3_hard"), _deep_from_itself),
    "deep1_direct": ("ngrams", (), _deep(1)),
    "deep1_dropped_in_steps": ("ngrams", ("deep1_direct",), _deep_dropped),
    "asked_at_random": ("ngrams", (), _asked("random")),
    "asked_by_margin": ("ngrams", ("asked_at_random",), _asked("margin")),
    "one_teacher": ("ngrams", (), _of_teachers("single")),
    "five_teachers_labels": ("ngrams", ("one_teacher",), _of_teachers("labels")),
    "five_teachers_averaged": ("ngrams", ("one_teacher", "five_teachers_labels"), _of_teachers("averaged")),
    "five_teachers_by_confidence": ("ngrams", ("one_teacher", "five_teachers_averaged"), _of_teachers("confidence")),
    "five_teachers_by_validation": ("ngrams", ("one_teacher", "five_teachers_averaged"), _of_teachers("validation")),
    "five_teachers_by_class": ("ngrams", ("one_teacher", "five_teachers_averaged"), _of_teachers("class")),
    "cut3_hard": ("encoder", (), _encoder_hard),
    "cut3_direct": ("encoder", ("cut3_hard",), _encoder_direct(3)),
    "cut3_deeper_layers": ("encoder", ("cut3_direct", "cut3_hard"), _deeper),
    "ngrams_of_assistant": ("encoder", ("direct", "hard"), _assistant),
    "cut2_direct": ("encoder", (), _encoder_direct(2)),
    "cut2_dropped_in_steps": ("encoder", ("cut2_direct",), _dropped),
}


def run(quick: bool, data: Path | None, rows: Sequence[str] = tuple(ROWS)) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    setting = prepare(quick, data)
    read = load(data if data is not None else shared("clinc150"))
    pool = Pool(setting, {row.text: row.label for row in read.train})
    said: dict[str, list[dict[str, float]]] = {}
    seeds = 3 if quick else SEEDS
    draws: dict[int, Draw] = {}
    learnt = f"{setting.digest}-{LEARN}-{ENCODER_LEARNS}-{ENCODER['epochs']}-{ENCODER['rate']}"
    home = HOME / "schemes" / learnt
    for name in rows:  # row by row: what a stopped run leaves can be compared
        for seed in range(seeds):
            kept = home / f"{name}-{seed}.json"
            if not kept.exists():
                if seed not in draws:
                    draws[seed] = pool.draw(seed)
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(_one(draws[seed], pool, ROWS[name][2])), encoding="utf-8")
            said.setdefault(name, []).append(json.loads(kept.read_text(encoding="utf-8")))
            print(f"seed {seed}: {name} {said[name][-1]}", file=sys.stderr, flush=True)
    result: dict[str, Any] = {name: _figures(name, found, said) for name, found in said.items()}
    result["teachers"] = _of_the_teachers(pool)
    packages = ("torch", "numpy")
    result["meta"] = meta.finish(begun, repeats=seeds, quick=quick, data=setting.data, packages=packages)
    result["meta"]["texts"] = {
        "learnt": LEARN,
        "learnt_by_encoder": ENCODER_LEARNS,
        "choosing": SELECT,
        "asked": len(pool.test),
    }
    return result


def _one(draw: Draw, pool: Pool, made: Made) -> dict[str, float]:
    torch.set_num_threads(1)
    cpu = time.process_time()
    student = made(draw, pool)
    spent = time.process_time() - cpu
    answers = pool.asked.logits(student).argmax(axis=1)
    said = np.array([draw.labels[place] for place in answers])
    teacher = np.array([row.label for row in pool.test])
    return {
        "agreement": float((said == teacher).mean()),
        "accuracy": float((said == pool.truth).mean()),
        "cpu_s": spent,
    }


def _of_the_teachers(pool: Pool) -> dict[str, Any]:
    said = pool.teachers([row.text for row in pool.test])
    labels = np.array(pool.labels)
    singles = [float((labels[one.argmax(axis=1)] == pool.truth).mean()) for one in said]
    whole = float((labels[averaged(said).argmax(axis=1)] == pool.truth).mean())
    main = float((np.array([row.label for row in pool.test]) == pool.truth).mean())
    return {"accuracy": main, "accuracy_of_each_of_five": singles, "accuracy_of_their_mean": whole}


def _figures(name: str, found: list[dict[str, float]], said: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """One row: agreement in the fields that `methods` has too, and its differences from each baseline."""
    against = {base: _difference(found, said[base]) for base in ROWS[name][1] if base in said}
    hard = next((base for base in against if base in HARD), None)
    agreement = _mean(found, "agreement")
    apart = against[hard]["agreement"] if hard else None
    return {
        "metric": "agreement",
        "student": ROWS[name][0] if not name.startswith("ngrams") else "ngrams",
        "mean": agreement["mean"],
        "std": agreement["sd"],
        "seeds": len(found),
        "hard_label_baseline_mean": _mean(said[hard], "agreement")["mean"] if hard else None,
        "difference_ci": [apart["low"], apart["high"]] if apart else None,
        "accuracy": _mean(found, "accuracy"),
        "cpu_s": _mean(found, "cpu_s"),
        "against": against,
    }


def _mean(found: list[dict[str, float]], key: str) -> dict[str, float]:
    values = [one[key] for one in found]
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _difference(found: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, Any]:
    """Means of the differences seed by seed, with 95 % t intervals; over the seeds that both have."""
    from scipy.stats import t

    both = min(len(found), len(base))
    result: dict[str, Any] = {"seeds": both}
    for key in ("agreement", "accuracy"):
        apart = np.array([found[i][key] - base[i][key] for i in range(both)])
        half = float(t.ppf(0.975, both - 1) * apart.std(ddof=1) / np.sqrt(both)) if both > 1 else float("inf")
        mean = float(apart.mean())
        result[key] = {"mean": mean, "low": mean - half, "high": mean + half, "helps": bool(mean - half > 0)}
    return result


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = []
    for name, of in result.items():
        if name in ("meta", "teachers"):
            continue
        bases = of["against"] or {None: None}
        for base, apart in bases.items():
            rows.append(
                [
                    name,
                    of["student"],
                    percent(of["mean"]),
                    percent(of["accuracy"]["mean"]),
                    base or "–",
                    _shown(apart, "agreement"),
                    _shown(apart, "accuracy"),
                    apart["seeds"] if apart else of["seeds"],
                    of["cpu_s"]["mean"],
                ]
            )
    head = ("scheme", "student", "agreement", "accuracy", "against", "agreement by", "accuracy by", "seeds", "CPU-s")
    return table(head, rows)


def _shown(apart: dict[str, Any] | None, key: str) -> str:
    if apart is None:
        return "–"
    of = apart[key]
    return f"{100 * of['mean']:+.1f} ({100 * of['low']:+.1f} to {100 * of['high']:+.1f})"
