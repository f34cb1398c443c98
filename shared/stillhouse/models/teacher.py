"""The ensemble teacher's local part: a sentence encoder with a fitted head, and always-escalate rules.

The head is a multinomial logistic regression on sentence vectors (Hastie, Tibshirani & Friedman, ESL 2nd ed., 4.4),
fitted by L-BFGS on a labelled seed; one temperature, chosen on held-out seed rows, calibrates it (Guo et al.
1706.04599). It answers with a distribution, which is what students are distilled from. The LLM adjudicator is in
`adjudicator`; it waits on a network, so it works where the event loop is, not here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from stillhouse.files import locked
from stillhouse.models.artefact import MANIFEST_FILE, publish, verify
from stillhouse.models.encoder import WIDTH as WIDTH
from stillhouse.models.encoder import (
    FitProgress,
    OnProgress,
    SentenceEncoder,
    encoder_folder,
    ensure_encoder,
    staged,
)
from stillhouse.models.port import ModelError, Prediction
from stillhouse.models.rules import EscalationRules
from stillhouse.models.student import distribution_of, softmax
from stillhouse.tasks.declaration import Task

# Part of the folder's name; raise it when the same seed would give another head.
FIT_VERSION = 1
HEAD_FILE = "head.npz"
TEACHER_FILE = "teacher.json"
HELD_OUT = 0.15
# Inverse strengths of the L2 penalty that are tried, as C of logistic regression is usually given.
STRENGTHS = (10.0, 100.0)
MIN_HELD_OUT = 30

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SeedRow:
    """One labelled text of the seed."""

    text: str
    label: str


def read_seed(task: Task) -> list[SeedRow]:
    """The task's seed, in order, repeated rows once. Raises `ModelError` that names the line and the mend."""
    path = task.ensemble.seed
    known = set(task.labels)
    rows: dict[SeedRow, None] = {}
    for number, line in enumerate(_seed_bytes(task).decode("utf-8", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            raw: Any = json.loads(line)
        except ValueError:
            raise ModelError(f"{where}: not JSON; write one object with text and label.") from None
        if not isinstance(raw, dict) or not isinstance(raw.get("text"), str) or not isinstance(raw.get("label"), str):
            raise ModelError(f"{where}: needs text and label, both strings; mend or remove the line.")
        if not raw["text"].strip():
            raise ModelError(f"{where}: text is empty; mend or remove the line.")
        if raw["label"] not in known:
            raise ModelError(f"{where}: label {raw['label']!r} is not one of the task's labels; add it or correct it.")
        rows[SeedRow(raw["text"], raw["label"])] = None
    missing = known - {row.label for row in rows}
    if missing:
        named = ", ".join(repr(label) for label in sorted(missing)[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ModelError(f"{path}: no row has the label {named}{more}; add rows or take the label out of the task.")
    return list(rows)


def teacher_folder(task: Task, home: Path) -> Path:
    """`<home>/teachers/<tenant>/<task>/<hash of seed and configuration>/`; reads the seed. Raises `ModelError`."""
    parts = (FIT_VERSION, encoder_folder(home, task.ensemble.encoder).name, task.labels)
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update(_seed_bytes(task))
    return home / "teachers" / task.tenant / task.name / digest.hexdigest()[:16]


def teacher_version(task: Task, folder: Path) -> str:
    """Names everything that decides the teacher's answers: head, rules and adjudicator."""
    adjudicator = task.ensemble.adjudicator
    parts = (
        folder.name,
        [rule.model_dump(mode="json") for rule in task.teacher.escalate],
        adjudicator.model_dump(mode="json", include={"base_url", "model", "below_margin"}) if adjudicator else None,
    )
    return f"ensemble-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


def fit_teacher(task: Task, home: Path, on_progress: OnProgress | None = None) -> Path:
    """Fit the task's teacher and give its folder; where it is fitted already, only check it.

    Blocking: some 250 texts a second and core, and 25 s more for the first teacher of a `home`, which exports the
    encoder. Idempotent, atomic, one fitter at a time. Raises `ModelError`, `OSError`.
    """
    folder = teacher_folder(task, home)
    if is_fitted(folder):
        return verify(folder)
    rows = read_seed(task)
    with locked(folder.with_suffix(".lock")):
        if is_fitted(folder):
            return verify(folder)
        encoder = SentenceEncoder(ensure_encoder(home, task.ensemble.encoder, on_progress))

        def say(phase: str, done: int, total: int) -> None:
            if on_progress:
                on_progress(FitProgress(phase, done, total))

        say("seed", 0, len(rows))
        vectors, _ = encoder.encode([row.text for row in rows], lambda done: say("seed", done, len(rows)))
        say("head", 0, 1)
        index = {label: i for i, label in enumerate(task.labels)}
        targets = np.array([index[row.label] for row in rows], dtype=np.int64)
        head = fit_head(vectors, targets, len(task.labels), held_out=_held_out(rows))
        with staged(folder) as staging:
            np.savez(staging / HEAD_FILE, weights=head.weights, bias=head.bias)
            facts = {
                "labels": task.labels,
                "temperature": head.temperature,
                "strength": head.strength,
                "seed_rows": len(rows),
                "held_out_rows": head.held_out_rows,
                "held_out_accuracy": head.held_out_accuracy,
                "held_out_nll": head.held_out_nll,
                "encoder": encoder_folder(home, task.ensemble.encoder).name,
            }
            (staging / TEACHER_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
            publish(staging, folder)
        say("head", 1, 1)
    log.info(
        "teacher fitted",
        task=task.key,
        seed_rows=len(rows),
        held_out_accuracy=head.held_out_accuracy,
        temperature=round(head.temperature, 3),
    )
    return folder


def is_fitted(folder: Path) -> bool:
    """Whether a teacher has been fitted into `folder` (of `teacher_folder`)."""
    return (folder / MANIFEST_FILE).exists()


@dataclass(frozen=True, slots=True)
class Head:
    """A fitted softmax head: `weights` float32 [384, labels], `bias` float32 [labels].

    `held_out_*` are over rows that the judged fit did not see (None: too few); the returned weights saw all rows.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float
    strength: float
    held_out_rows: int
    held_out_accuracy: float | None
    held_out_nll: float | None


def fit_head(
    vectors: NDArray[np.float32], targets: NDArray[np.int64], labels: int, held_out: NDArray[np.bool_]
) -> Head:
    """Fit a head on `vectors` [n, d] with `targets` [n] in [0, labels); `held_out` [n] marks rows to calibrate on.

    Of each strength of the penalty a head is fitted on the other rows; the one with the smallest held-out loss at its
    best temperature wins, and is fitted again on all rows. Under 30 held-out rows nothing is compared: C = 10, T = 1.
    """
    d = vectors.shape[1]
    start = np.zeros((d + 1) * labels)
    rows = int(held_out.sum())
    if rows < MIN_HELD_OUT:
        weights = _minimise(vectors, targets, labels, STRENGTHS[0], start)
        return _head(weights, d, labels, 1.0, STRENGTHS[0], rows, None, None)
    best: tuple[float, float, float, float] | None = None
    for strength in STRENGTHS:
        start = _minimise(vectors[~held_out], targets[~held_out], labels, strength, start)
        table = start.reshape(d + 1, labels)
        logits = vectors[held_out] @ table[:-1] + table[-1]
        temperature, nll = calibrate(logits, targets[held_out])
        accuracy = float((logits.argmax(axis=1) == targets[held_out]).mean())
        if best is None or nll < best[0]:
            best = (nll, temperature, strength, accuracy)
    assert best is not None
    nll, temperature, strength, accuracy = best
    weights = _minimise(vectors, targets, labels, strength, start)
    return _head(weights, d, labels, temperature, strength, rows, accuracy, nll)


def calibrate(logits: NDArray[Any], targets: NDArray[np.int64]) -> tuple[float, float]:
    """The temperature in [0.05, 20] with the smallest mean negative log-likelihood, and that likelihood (nats)."""
    from scipy.optimize import minimize_scalar

    at = np.arange(len(targets))

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[at, targets]).mean())

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded")
    return float(math.exp(found.x)), float(found.fun)


class EnsembleTeacher:
    """Encoder, head and rules of one task. Blocking; belongs in a worker process."""

    def __init__(self, task: Task, folder: Path) -> None:
        """Load the teacher in `folder` (of `fit_teacher`), verifying every file. Raises `ModelError`."""
        verify(folder)
        try:
            facts = json.loads((folder / TEACHER_FILE).read_text(encoding="utf-8"))
            with np.load(folder / HEAD_FILE, allow_pickle=False) as head:
                self._weights, self._bias = head["weights"], head["bias"]
            self._temperature = float(facts["temperature"])
            labels, encoder = tuple(facts["labels"]), str(facts["encoder"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{folder}: not a usable teacher ({error!r}); remove the folder to fit it anew.") from None
        if labels != task.labels:
            raise ModelError(f"{folder}: fitted for other labels than the task has; remove the folder to fit it anew.")
        self.labels = task.labels
        self.version = teacher_version(task, folder)
        self._price = task.teacher.usd_per_call
        self._rules = EscalationRules(task.teacher.escalate)
        # <home>/teachers/<tenant>/<task>/<hash>
        self._encoder = SentenceEncoder(verify(folder.parents[3] / "encoders" / encoder))

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction per text, in order, without latency and CPU time. Raises `ModelError`.

        A rule with a label decides with confidence 1; a rule without one marks the prediction (`policy`) and leaves the
        answer to the encoder.
        """
        vectors, counts = self._encoder.encode(texts)
        probabilities = softmax(vectors @ self._weights + self._bias, self._temperature)
        answers: list[Prediction] = []
        for text, row, tokens in zip(texts, probabilities, counts, strict=True):
            rule = self._rules.find(text)
            if rule is not None and rule.label is not None:
                output, confidence, distribution = rule.label, 1.0, {rule.label: 1.0}
            else:
                best = int(row.argmax())
                output, confidence = self.labels[best], float(row[best])
                distribution = distribution_of(self.labels, row)
            answers.append(
                Prediction(
                    output=output,
                    confidence=confidence,
                    distribution=distribution,
                    cost_usd=self._price,
                    input_tokens=int(tokens),
                    policy=rule.name if rule else None,
                )
            )
        return answers


def _minimise(
    vectors: NDArray[np.float32], targets: NDArray[np.int64], labels: int, strength: float, start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean cross-entropy plus |W|^2 / (2 C n), by L-BFGS from `start`; parameters float64 [(d + 1) * labels]."""
    from scipy.optimize import minimize

    n, d = vectors.shape
    penalty = 1.0 / (strength * n)
    at = np.arange(n)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        table = parameters.reshape(d + 1, labels).astype(np.float32)
        logits = vectors @ table[:-1] + table[-1]
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        sums = exponentials.sum(axis=1, keepdims=True)
        value = float((np.log(sums[:, 0]) - logits[at, targets]).mean())
        residual = exponentials / sums
        residual[at, targets] -= 1.0
        residual /= n
        gradient = np.empty((d + 1, labels), dtype=np.float64)
        gradient[:-1] = vectors.T @ residual + penalty * table[:-1]
        gradient[-1] = residual.sum(axis=0)
        return value + 0.5 * penalty * float((table[:-1] ** 2).sum()), gradient.ravel()

    options = {"maxiter": 200, "maxcor": 10, "ftol": 1e-9, "gtol": 1e-6}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x, dtype=np.float64)


def _head(
    parameters: NDArray[np.float64],
    d: int,
    labels: int,
    temperature: float,
    strength: float,
    rows: int,
    accuracy: float | None,
    nll: float | None,
) -> Head:
    table = parameters.reshape(d + 1, labels).astype(np.float32)
    return Head(table[:-1].copy(), table[-1].copy(), temperature, strength, rows, accuracy, nll)


def _held_out(rows: Sequence[SeedRow]) -> NDArray[np.bool_]:
    """15 % of each label's rows, picked by the hash of the text: the same rows whatever their order in the file."""
    by_label: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_label.setdefault(row.label, []).append(i)
    marks = np.zeros(len(rows), dtype=np.bool_)
    for members in by_label.values():
        members.sort(key=lambda i: hashlib.sha256(rows[i].text.encode()).digest())
        marks[members[: int(len(members) * HELD_OUT)]] = True
    return marks


def _seed_bytes(task: Task) -> bytes:
    path = task.ensemble.seed
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: the teacher's seed cannot be read ({error.strerror}); name a JSONL file.") from None
