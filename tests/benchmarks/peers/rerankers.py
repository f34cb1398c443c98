"""A peer reranker: sentence-transformers' bi-encoder, as it comes or taught by the teacher's scores, and measured.

Job: `encoder` (folder of the sentence encoder), `max_tokens`, `epochs`, `rate`, `batch` (lists), `train`
(`[[query, [document, ...], [score, ...]], ...]`, equally many documents each), `test` (`[[query, [document, ...]],
...]`). Result: `scores`, `cpu_s` and `wall_s` of each test list, `kept_cpu_s` of each where the documents' vectors are
known, `bytes`, `training_cpu_s`, `version`, `how`. Texts are cut at `max_tokens`; batches of 32, one thread.

`rerankers.py ENCODER MAX_TOKENS` is timed instead: each line of standard input is `[query, [document, ...], whether
the documents' vectors are kept]`, and each line of standard output CPU seconds and seconds.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCALE = 20.0  # of cosines, as sentence-transformers has it where they are logits


def taught(job: dict[str, Any], saved: Path) -> Any:
    """The encoder; with `epochs`, fine-tuned by listwise KL from the teacher's scores (`DistillKLDivLoss`)."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["encoder"], device="cpu")
    model.max_seq_length = job["max_tokens"]
    if not job["epochs"]:
        return model
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import DistillKLDivLoss
    from sentence_transformers.util import pairwise_cos_sim

    lists = job["train"]
    columns: dict[str, list[Any]] = {"query": [query for query, _, _ in lists]}
    for place in range(len(lists[0][1])):
        columns[f"document_{place}"] = [documents[place] for _, documents, _ in lists]
    columns["label"] = [scores for _, _, scores in lists]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(saved / "checkpoints"),
        per_device_train_batch_size=job["batch"],
        num_train_epochs=job["epochs"],
        learning_rate=job["rate"],
        warmup_ratio=0.1,
        save_strategy="no",
        report_to="none",
        seed=0,
        use_cpu=True,
    )
    loss = DistillKLDivLoss(model, similarity_fct=lambda a, b: SCALE * pairwise_cos_sim(a, b))
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss).train()
    return model


def main() -> None:
    """Read the job, run it, write the result."""
    job = json.load(sys.stdin)
    import numpy as np
    import torch

    torch.set_num_threads(1)
    saved = Path(job["scratch"]) / "saved"
    saved.mkdir()
    cpu = time.process_time()
    model = taught(job, saved)
    trained = time.process_time() - cpu
    model.save(str(saved / "model"))

    def vectors(texts: list[str]) -> Any:
        return model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)

    vectors(["warm"] * 32)
    said: dict[str, list[Any]] = {"scores": [], "cpu_s": [], "wall_s": [], "kept_cpu_s": []}
    for query, documents in job["test"]:
        cpu, wall = time.process_time(), time.perf_counter()
        known = vectors(documents)
        between = time.process_time()
        scores = known @ vectors([query])[0]
        ended = time.process_time()
        said["scores"].append(np.asarray(scores, dtype=float).tolist())
        said["cpu_s"].append(ended - cpu)
        said["wall_s"].append(time.perf_counter() - wall)
        said["kept_cpu_s"].append(ended - between)
    how = f"{job['epochs']} epochs of {len(job['train'])} lists, rate {job['rate']:g}" if job["epochs"] else "untrained"
    facts = {
        "bytes": sum(file.stat().st_size for file in (saved / "model").rglob("*") if file.is_file()),
        "training_cpu_s": trained if job["epochs"] else None,
        "version": {
            "sentence-transformers": version("sentence-transformers"),
            "sentence-transformers: torch": torch.__version__,
        },
        "how": how,
    }
    with open(job["result"], "w", encoding="utf-8") as file:
        json.dump(said | facts, file)


def timed(encoder: str, max_tokens: int) -> None:
    """Score line by line until the input ends, with the encoder as it comes."""
    said = sys.stdout
    sys.stdout = sys.stderr  # whatever the packages print is no answer
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(encoder, device="cpu")
    model.max_seq_length = max_tokens

    def vectors(texts: list[str]) -> Any:
        return model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)

    vectors(["warm"] * 32)
    kept: dict[tuple[str, ...], Any] = {}
    for line in sys.stdin:
        query, documents, keeps = json.loads(line)
        key = tuple(documents)
        cpu, wall = time.process_time(), time.perf_counter()
        known = kept.get(key) if keeps else None
        if known is None:
            known = vectors(documents)
        (known @ vectors([query])[0]).tolist()
        spent = [time.process_time() - cpu, time.perf_counter() - wall]
        if keeps:
            kept[key] = known
        print(json.dumps(spent), file=said, flush=True)


if __name__ == "__main__":
    timed(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
