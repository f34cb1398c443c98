"""A peer classifier, trained on the teacher's answers and measured: SetFit, Model2Vec or sentence-transformers.

Job: `kind`, `encoder` (folder of the sentence encoder), `train` and `select` (`[[text, label], ...]`), `test` (texts),
`batch`, `repeats`, `steps`. Result: what `timing.measure` gives, with `bytes`, `training_cpu_s`, `version` and `how`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from timing import measure

Predict = Callable[[Sequence[str]], Sequence[str]]


def embedding_lr(job: dict[str, Any], saved: Path) -> tuple[Predict, str]:
    """sentence-transformers' encoder, frozen, with scikit-learn's logistic regression."""
    import joblib
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    encoder = SentenceTransformer(job["encoder"], device="cpu")
    texts, labels = zip(*job["train"], strict=True)
    vectors = encoder.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    head = LogisticRegression(max_iter=1000, C=10).fit(vectors, labels)
    encoder.save(str(saved / "encoder"))
    joblib.dump(head, saved / "head.joblib")

    def predict(texts: Sequence[str]) -> Sequence[str]:
        found = encoder.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return [str(label) for label in head.predict(found)]

    return predict, f"torch encoder, frozen; logistic regression (C = 10) on {len(texts)} answers"


def model2vec(job: dict[str, Any], saved: Path) -> tuple[Predict, str]:
    """Static vectors distilled from the same encoder, with scikit-learn's logistic regression."""
    import joblib
    from model2vec.distill import distill
    from sklearn.linear_model import LogisticRegression

    static = distill(model_name=job["encoder"])
    texts, labels = zip(*job["train"], strict=True)
    head = LogisticRegression(max_iter=1000, C=10).fit(static.encode(list(texts)), labels)
    static.save_pretrained(str(saved / "static"))
    joblib.dump(head, saved / "head.joblib")

    def predict(texts: Sequence[str]) -> Sequence[str]:
        return [str(label) for label in head.predict(static.encode(list(texts)))]

    return predict, f"distilled with its defaults; logistic regression (C = 10) on {len(texts)} answers"


def setfit(job: dict[str, Any], saved: Path) -> tuple[Predict, str]:
    """SetFit: the encoder fine-tuned on pairs, then a logistic regression; 8 texts a label, as its guide has it."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    counts: dict[str, int] = {}
    few = []
    for text, label in job["train"]:
        if counts.get(label, 0) < 8:
            counts[label] = counts.get(label, 0) + 1
            few.append((text, label))
    names = sorted(counts)
    model = SetFitModel.from_pretrained(job["encoder"], labels=names)
    place = {name: i for i, name in enumerate(names)}
    data = Dataset.from_dict({"text": [text for text, _ in few], "label": [place[label] for _, label in few]})
    arguments = TrainingArguments(
        output_dir=str(saved / "checkpoints"),
        batch_size=16,
        num_epochs=1,
        max_steps=job["steps"],
        save_strategy="no",
        report_to="none",
        seed=0,
    )
    Trainer(model=model, args=arguments, train_dataset=data).train()
    model.save_pretrained(str(saved / "model"))

    def predict(texts: Sequence[str]) -> Sequence[str]:
        return [str(label) for label in model.predict(list(texts), show_progress_bar=False)]

    return predict, f"{len(few)} answers (8 a label), {job['steps']} steps of 16 pairs"


KINDS = {"embedding_lr": embedding_lr, "model2vec": model2vec, "setfit": setfit}
PACKAGES = {"embedding_lr": "sentence-transformers", "model2vec": "model2vec", "setfit": "setfit"}


def main() -> None:
    """Read the job, run it, write the result."""
    job = json.load(sys.stdin)
    import torch

    torch.set_num_threads(1)
    saved = Path(job["scratch"]) / "saved"
    saved.mkdir()
    cpu = time.process_time()
    predict, how = KINDS[job["kind"]](job, saved)
    trained = time.process_time() - cpu
    result = measure(predict, job["test"], job["batch"], job["repeats"])
    name = PACKAGES[job["kind"]]
    result |= {
        "bytes": sum(file.stat().st_size for file in saved.rglob("*") if file.is_file()),
        "training_cpu_s": trained,
        "version": {name: version(name), f"{name}: torch": torch.__version__},
        "how": how,
    }
    with open(job["result"], "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
