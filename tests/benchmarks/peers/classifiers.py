"""A peer classifier, trained on the teacher's answers: SetFit, Model2Vec or sentence-transformers.

Job: `kind`, `encoder` (folder of the sentence encoder), `train` (`[[text, label], ...]`), `folder` (where it is kept),
`steps`. Result: `bytes`, `training_cpu_s`, `version` and `how`. Then `classifiers.py FOLDER` answers: each line of
standard input is a list of texts, asked at once, and each line of standard output the answers, the CPU seconds and
the seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

Predict = Callable[[Sequence[str]], Sequence[str]]


def embedding_lr(job: dict[str, Any], saved: Path) -> str:
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
    return f"torch encoder, frozen; logistic regression (C = 10) on {len(texts)} answers"


def answers_of_embedding_lr(saved: Path) -> Predict:
    """What `embedding_lr` saved, to be asked."""
    import joblib
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(saved / "encoder"), device="cpu")
    head = joblib.load(saved / "head.joblib")

    def predict(texts: Sequence[str]) -> Sequence[str]:
        found = encoder.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
        return [str(label) for label in head.predict(found)]

    return predict


def model2vec(job: dict[str, Any], saved: Path) -> str:
    """Static vectors distilled from the same encoder, with scikit-learn's logistic regression."""
    import joblib
    from model2vec.distill import distill
    from sklearn.linear_model import LogisticRegression

    static = distill(model_name=job["encoder"])
    texts, labels = zip(*job["train"], strict=True)
    head = LogisticRegression(max_iter=1000, C=10).fit(static.encode(list(texts)), labels)
    static.save_pretrained(str(saved / "static"))
    joblib.dump(head, saved / "head.joblib")
    return f"distilled with its defaults; logistic regression (C = 10) on {len(texts)} answers"


def answers_of_model2vec(saved: Path) -> Predict:
    """What `model2vec` saved, to be asked."""
    import joblib
    from model2vec import StaticModel

    static = StaticModel.from_pretrained(str(saved / "static"))
    head = joblib.load(saved / "head.joblib")
    return lambda texts: [str(label) for label in head.predict(static.encode(list(texts)))]


def setfit(job: dict[str, Any], saved: Path) -> str:
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
        output_dir=str(Path(job["scratch"]) / "checkpoints"),
        batch_size=16,
        num_epochs=1,
        max_steps=job["steps"],
        save_strategy="no",
        report_to="none",
        seed=0,
    )
    Trainer(model=model, args=arguments, train_dataset=data).train()
    model.save_pretrained(str(saved / "model"))
    return f"{len(few)} answers (8 a label), {job['steps']} steps of 16 pairs"


def answers_of_setfit(saved: Path) -> Predict:
    """What `setfit` saved, to be asked."""
    from setfit import SetFitModel

    model = SetFitModel.from_pretrained(str(saved / "model"))
    return lambda texts: [str(label) for label in model.predict(list(texts), show_progress_bar=False)]


KINDS = {"embedding_lr": embedding_lr, "model2vec": model2vec, "setfit": setfit}
ASKED = {"embedding_lr": answers_of_embedding_lr, "model2vec": answers_of_model2vec, "setfit": answers_of_setfit}
PACKAGES = {"embedding_lr": "sentence-transformers", "model2vec": "model2vec", "setfit": "setfit"}


def learn() -> None:
    """Read the job, train, write the result and what was learnt."""
    job = json.load(sys.stdin)
    saved = Path(job["folder"])
    saved.mkdir(parents=True, exist_ok=True)
    cpu = time.process_time()
    how = KINDS[job["kind"]](job, saved)
    name = PACKAGES[job["kind"]]
    result = {
        "bytes": sum(file.stat().st_size for file in saved.rglob("*") if file.is_file()),
        "training_cpu_s": time.process_time() - cpu,
        "version": {name: version(name), f"{name}: torch": version("torch")},
        "how": how,
    }
    (saved / "kind").write_text(job["kind"], encoding="utf-8")
    with open(job["result"], "w", encoding="utf-8") as file:
        json.dump(result, file)


def answer(saved: Path) -> None:
    """Answer line by line until the input ends."""
    said = sys.stdout
    sys.stdout = sys.stderr  # whatever the packages print is no answer
    predict = ASKED[(saved / "kind").read_text(encoding="utf-8")](saved)
    predict(["warm"] * 32)
    for line in sys.stdin:
        texts = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        answers = list(predict(texts))
        spent = [time.process_time() - cpu, time.perf_counter() - wall]
        print(json.dumps([answers, *spent]), file=said, flush=True)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    answer(Path(sys.argv[1])) if len(sys.argv) > 1 else learn()
