"""A small classification task that n-grams solve, drawn from a fixed seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stillhouse.distill.data import LabelledText
from stillhouse.distill.export import export
from stillhouse.distill.targets.program import program_path, save_program
from stillhouse.distill.training import TrainedStudent, train
from stillhouse.tasks import StudentCandidate

LABELS = ("order", "refund", "stock")
WORDS = {
    "order": ("order", "parcel", "arrive", "late", "tracking"),
    "refund": ("refund", "money", "back", "charged", "cancel"),
    "stock": ("stock", "volume", "available", "sold", "restock"),
}
FILLERS = ("please", "my", "the", "when", "is", "hello", "about", "i", "a", "thanks")


def texts(n: int, seed: int = 0) -> list[LabelledText]:
    """`n` labelled texts of two telling words among fillers, with soft labels."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        label = str(random.choice(LABELS))
        words = [*random.choice(WORDS[label], 2), *random.choice(FILLERS, int(random.integers(2, 9)))]
        random.shuffle(words)
        others = [other for other in LABELS if other != label]
        made.append(LabelledText(" ".join(words), label, {label: 0.9, others[0]: 0.07, others[1]: 0.03}))
    return made


def kept_student(home: Path) -> tuple[Path, TrainedStudent]:
    """The student `toy` in the folder `home`: its artefact, with its program as the trainer keeps it; and it itself."""
    artefact, checkpoints = home / "artefacts" / "toy", home / "checkpoints"
    artefact.mkdir(parents=True)
    checkpoints.mkdir()
    candidate = StudentCandidate(architecture="hashed_ngrams", dim=16, epochs=6, batch_size=16, buckets=1 << 12)
    trained = train(
        candidate,
        LABELS,
        texts(160),
        texts(60, seed=1),
        on_progress=lambda _: None,
        checkpoint_dir=checkpoints,
        seed=0,
    )
    export(trained, artefact, "toy")
    save_program(trained, program_path(artefact))
    return artefact, trained
