"""Five models that vote, distilled into one: `python deploy/examples/five_to_one.py [--data FILE] [--small]`.

Five students of the sentence encoder, each trained on another draw of the labelled texts (bagging, Breiman 1996), are
the teacher: it answers with their linear opinion pool (`distill.schemes.ensembles`), in which all count alike or each
by how sure it is of the text at hand; held-out labelled texts choose which. One student learns from these answers, on
texts without labels too. Said at the end: accuracy of each, of the pools and of the one; how often the one agrees with
its teacher; bytes and milliseconds. `--data`: JSON lines with `text` and `label`; by default texts are generated.
`--seed`: another draw of everything. `--small`: hashed n-grams in place of encoders, in seconds, which shows that it
runs and nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillhouse.distill.data import LabelledText, hard_targets
from stillhouse.distill.export import export
from stillhouse.distill.schemes.ensembles import averaged, by_confidence
from stillhouse.distill.training import train
from stillhouse.models.student import OnnxStudent, softmax
from stillhouse.tasks import StudentCandidate

sys.path.insert(0, str(Path(__file__).parent))
from texts import made, read

MEMBERS = 5
POOLS = {"averaged": averaged, "by_confidence": by_confidence}


def main() -> None:
    """Train the five and the one, and print what they cost and answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="JSON lines with text and label")
    parser.add_argument("--small", action="store_true", help="hashed n-grams and few texts: seconds")
    parser.add_argument("--seed", type=int, default=0, help="draws parts, members and students")
    given = parser.parse_args()
    rows = read(given.data) if given.data else made(400 if given.small else 1500, seed=0)
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(distil(rows, given.small, Path(work), given.seed), indent=1))


def distil(rows: Sequence[LabelledText], small: bool, work: Path, seed: int = 0) -> dict[str, Any]:
    """The figures of one run: a third of `rows` has labels for the five, a third is for the one, a third judges."""
    order = np.random.default_rng(seed).permutation(len(rows))
    third = len(rows) // 3
    labelled, unlabelled, judged = ([rows[i] for i in order[start : start + third]] for start in (0, third, 2 * third))
    held, labelled = labelled[: third // 5], labelled[third // 5 :]
    labels = tuple(sorted({row.label for row in rows}))
    candidate = (
        StudentCandidate(architecture="hashed_ngrams", dim=16, epochs=6, batch_size=16)
        if small
        else StudentCandidate(architecture="cut_encoder", layers=2, epochs=4)
    )
    members = []
    for member in range(MEMBERS):
        draw = np.random.default_rng([seed, member]).integers(0, len(labelled), len(labelled))
        texts = [labelled[i] for i in draw]
        members.append(_student(f"member{member}", candidate, labels, texts, held, work, 100 * seed + member))

    chosen_on = np.stack([_probabilities(member, held) for member in members])
    right = hard_targets(held, labels)
    surprise = {name: -float(np.log(_given(pool(chosen_on), right)).mean()) for name, pool in POOLS.items()}
    teacher = min(surprise, key=lambda name: surprise[name])
    asked = unlabelled + labelled
    said = POOLS[teacher](np.stack([_probabilities(member, asked) for member in members]))
    one = _student("one", candidate, labels, _answered(asked, said, labels), held, work, 100 * seed + 99)

    truth = hard_targets(judged, labels)
    each = np.stack([_probabilities(member, judged) for member in members])
    pooled = {name: pool(each).argmax(axis=1) for name, pool in POOLS.items()}
    answers = _probabilities(one, judged).argmax(axis=1)
    return {
        "accuracy_of_each": [float((shares.argmax(axis=1) == truth).mean()) for shares in each],
        "accuracy_of_five": {name: float((found == truth).mean()) for name, found in pooled.items()},
        "teacher": teacher,
        "accuracy_of_one": float((answers == truth).mean()),
        "agreement_of_one_with_five": float((answers == pooled[teacher]).mean()),
        "ms_of_five": sum(_ms(member, judged) for member in members),
        "ms_of_one": _ms(one, judged),
        "mb_of_five": sum(_bytes(work / f"member{member}") for member in range(MEMBERS)) / 1e6,
        "mb_of_one": _bytes(work / "one") / 1e6,
        "judged": len(judged),
    }


def _student(
    name: str,
    candidate: StudentCandidate,
    labels: Sequence[str],
    texts: Sequence[LabelledText],
    select: Sequence[LabelledText],
    work: Path,
    seed: int,
) -> OnnxStudent:
    folder, checkpoints = work / name, work / f"{name}-checkpoints"
    folder.mkdir()
    checkpoints.mkdir()
    silent: Callable[[object], None] = lambda _: None  # noqa: E731
    trained = train(candidate, labels, texts, select, on_progress=silent, checkpoint_dir=checkpoints, seed=seed)
    export(trained, folder, name)
    return OnnxStudent(folder)


def _answered(rows: Sequence[LabelledText], said: NDArray[np.float64], labels: Sequence[str]) -> list[LabelledText]:
    """The texts of `rows` with what the ensemble says of them, `said` [rows, labels], in place of their labels."""
    return [
        LabelledText(row.text, labels[int(shares.argmax())], dict(zip(labels, shares.tolist(), strict=True)))
        for row, shares in zip(rows, said, strict=True)
    ]


def _given(said: NDArray[np.float64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """What was given to the right label of each text, float64 [n], at least 1e-12."""
    return np.maximum(said[np.arange(len(right)), right], 1e-12)


def _probabilities(student: OnnxStudent, rows: Sequence[LabelledText]) -> NDArray[np.float64]:
    """Calibrated probabilities float64 [rows, labels]."""
    return np.stack([softmax(student.logits(row.text), student.spec.temperature) for row in rows])


def _ms(student: OnnxStudent, rows: Sequence[LabelledText]) -> float:
    took = []
    for row in rows[:100]:
        begun = time.perf_counter()
        student.logits(row.text)
        took.append((time.perf_counter() - begun) * 1e3)
    return float(np.median(took))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
