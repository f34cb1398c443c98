"""From a trained reranker to the files that serve: an ONNX graph, `reranker.json`, the lexicon and the tokenizer.

Matrices and word embeddings become int8 as those of classifiers do (`distill.export`); the graph stays in float32 where
that moves too many documents past each other. What the files answer is compared with the trained module.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from stillhouse.distill.confidence import fit_confidence
from stillhouse.distill.export import Int8Rows, write_onnx
from stillhouse.distill.rerankers.lists import RankedList
from stillhouse.distill.rerankers.training import TrainedReranker, scores_of_list
from stillhouse.models.confidence import Confidence, Kind
from stillhouse.models.features import MODEL_FILE, TOKENIZER_FILE
from stillhouse.models.port import ModelError
from stillhouse.models.rerank_request import answer_of
from stillhouse.models.rerank_student import OnnxReranker, RerankSpec, ranking_signals
from stillhouse.models.rerank_text import LEXICON_FILE

LEAST_IN_ORDER: Final = 0.95  # of pairs of documents, which the files must order as the module does
MOST_COMPARED: Final = 50  # lists


@dataclass(frozen=True, slots=True)
class RerankExport:
    """What was written, and how it compares with the trained module on `n_compared` lists.

    `bytes` of all files; `in_order` in [0, 1], pairs of documents that both order alike; `matrix_bits` 8 or 32.
    """

    bytes: int
    in_order: float
    n_compared: int
    matrix_bits: int
    export_seconds: float


def export_reranker(
    trained: TrainedReranker,
    folder: Path,
    student_id: str,
    compared: Sequence[RankedList],
    *,
    held: Sequence[RankedList] = (),
    same: Callable[[str, str], bool] | None = None,
    confidence: Kind = "learned",
) -> RerankExport:
    """Write the files into `folder`, which exists, and compare them with the trained module on some of `compared`.

    `held` are lists that neither taught nor chose anything, with the teacher's scores: on them and by `same`, the
    task's comparator, the confidence is fitted; where there are too few it is the largest of the softmax of the scores.
    Raises `ModelError` where even the float graph orders otherwise, and `OSError`.
    """
    started = time.monotonic()
    lists = [one for one in compared if len(one.documents) > 1][:MOST_COMPARED]
    expected = [scores_of_list(trained, one.query, one.documents) for one in lists]
    module = trained.module
    pairs = trained.candidate.architecture == "cross_encoder"
    plain: Confidence = Confidence("max_probability" if confidence == "learned" else confidence)
    spec = replace(
        trained.spec,
        student_id=student_id,
        similarity=1.0 if pairs else float(module.encoder.cosine.detach()),
        weights=tuple(module.lexical.weight.detach()[0].tolist()),
        confidence=plain,
    )
    spec.write(folder)
    trained.lexicon.write(folder / LEXICON_FILE)
    shutil.copyfile(trained.tokenizer, folder / TOKENIZER_FILE)
    share = 0.0
    for bits in (8, 32) if trained.candidate.quantization == "int8" else (32,):
        _write_graph(trained, folder / MODEL_FILE, bits)
        student = OnnxReranker(folder, redacts=False)
        answered = [student.scores(one.query, one.documents) for one in lists]
        share = float(np.mean([in_order(a, b) for a, b in zip(answered, expected, strict=True)])) if lists else 1.0
        if share >= LEAST_IN_ORDER:
            if confidence == "learned" and same is not None:
                _learn_confidence(spec, folder, held, same)
            return RerankExport(
                bytes=sum(path.stat().st_size for path in folder.iterdir()),
                in_order=share,
                n_compared=len(lists),
                matrix_bits=bits,
                export_seconds=time.monotonic() - started,
            )
    raise ModelError(
        f"Reranker {student_id}: the exported graph orders only {share:.1%} of pairs of documents as the trained "
        f"module does in {len(lists)} lists; install the pinned torch and onnxruntime and train anew."
    )


def in_order(student: NDArray[Any], teacher: NDArray[Any]) -> float:
    """The share of pairs of documents that both order alike, of those that the teacher orders; 1 where it orders none.

    Example:
        >>> in_order(np.array([3.0, 1.0, 2.0]), np.array([3.0, 2.0, 1.0])) == 2 / 3
        True
    """
    ours, theirs = (np.sign(scores[:, None] - scores[None, :]) for scores in (student, teacher))
    ordered = theirs > 0
    return float((ours[ordered] > 0).mean()) if ordered.any() else 1.0


def _learn_confidence(
    spec: RerankSpec, folder: Path, held: Sequence[RankedList], same: Callable[[str, str], bool]
) -> None:
    judged = [one for one in held if len(one.documents) > 1 and one.teacher is not None]
    student = OnnxReranker(folder)
    scores = [student.scores(one.query, one.documents) for one in judged]
    agrees = [
        same(answer_of(said.tolist())[0], answer_of(one.teacher or ())[0])
        for said, one in zip(scores, judged, strict=True)
    ]
    if judged:
        learnt = fit_confidence(np.stack([ranking_signals(said) for said in scores]), np.array(agrees, dtype=np.bool_))
        if learnt is not None:
            replace(spec, confidence=learnt).write(folder)


def _write_graph(trained: TrainedReranker, path: Path, bits: int) -> None:
    encoder: Any = trained.module.encoder
    if bits == 8:
        encoder = copy.deepcopy(encoder)
        embeddings = encoder.transformer.embeddings
        embeddings.word_embeddings = Int8Rows(embeddings.word_embeddings.weight.detach())
    pairs = trained.candidate.architecture == "cross_encoder"
    names = ["input_ids", "attention_mask", "token_type_ids"][: 3 if pairs else 2]
    length = torch.export.Dim("length", max=trained.spec.max_tokens)
    axes = {0: torch.export.Dim("batch"), 1: length} if pairs else {1: length}
    example = torch.ones(2 if pairs else 1, 16, dtype=torch.long)
    write_onnx(
        encoder,
        tuple(example.clone() for _ in names),
        path,
        names=names,
        outputs=["scores" if pairs else "vector"],
        axes=[axes for _ in names],
        matrix_bits=bits,
    )
