"""What every scheme is given beside its draw, and what is asked of the student that it makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stillhouse.distill.data import LabelledText
from stillhouse.models.encoder import SentenceEncoder, ensure_encoder
from stillhouse.models.teacher import fit_head
from tests.benchmarks.peers import HOME
from tests.benchmarks.population import Setting
from tests.benchmarks.schemes_students import Draw, Part

LEARN, SELECT, TEST = 1200, 300, 1500
TEACHERS, GOLD_PER_LABEL = 5, 5


class Pool:
    """What lies beside a draw: unlabelled texts as the teacher would answer them, five teachers, and the truth.

    `gold`: the true label of each text that teaches or chooses; `domains`: each label's domain, where there are any.
    """

    def __init__(self, setting: Setting, gold: dict[str, str], domains: dict[str, str]) -> None:
        self.setting, self.gold, self.domains, self.labels = setting, gold, domains, setting.task.labels
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


Made = Callable[[Draw, Pool], nn.Module]
Run = Callable[[Draw, Pool], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: the kind of student, the rows it is compared with, and how one run gets its figures.

    A run gives at least `metric`, `accuracy` (against the truth) and `cpu_s`, each a number.
    """

    student: str
    against: tuple[str, ...]
    run: Run
    metric: str = "agreement"


def taught(student: str, against: tuple[str, ...], made: Made) -> Row:
    """The row of a scheme that makes a student, which is then asked for the labels of all test texts."""

    def run(draw: Draw, pool: Pool) -> dict[str, float]:
        torch.set_num_threads(1)
        cpu = time.process_time()
        module = made(draw, pool)
        spent = time.process_time() - cpu
        return judged(module, pool) | {"cpu_s": spent}

    return Row(student, against, run)


def judged(student: nn.Module, pool: Pool) -> dict[str, float]:
    """Shares of the test texts that a student of labels answers as the teacher does, and rightly."""
    said = answers(student, pool)
    teacher = np.array([row.label for row in pool.test])
    return {"agreement": float((said == teacher).mean()), "accuracy": float((said == pool.truth).mean())}


def answers(student: nn.Module, pool: Pool) -> NDArray[np.str_]:
    """The labels that a student gives to the test texts, [n]."""
    return np.asarray(np.array(pool.labels)[pool.asked.logits(student).argmax(axis=1)])
