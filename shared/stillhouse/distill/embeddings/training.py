"""Trains a smaller encoder on a larger one's vectors of unlabelled texts (Reimers & Gurevych 2004.09813).

>>> from stillhouse.distill.assistant import sentence_vectors
>>> texts, held = ["where is it", "money back", "what does it cost", "is it there"], ["the price of it"]
>>> wanted, of_held = sentence_vectors(texts), sentence_vectors(held)  # or those of any larger encoder
>>> student = distil(CutSentences(2), texts, wanted, held, of_held, seed=0, epochs=2)
>>> encode(student, held).shape
(1, 384)
>>> [len(row) for row in ids(held)]  # tokens, with those of beginning and end
[6]

`export_encoder(student, folder)` writes what `SentenceEncoder(folder)` serves; `StaticEncoder(ids(texts), 256, 384)` is
the other student.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.distill.cut_encoder import MAX_TOKENS, encoder_source
from stillhouse.distill.embeddings.objectives import similarity_loss, vector_loss
from stillhouse.distill.embeddings.students import CutSentences, StaticEncoder
from stillhouse.distill.export import Int8Rows
from stillhouse.distill.fitting import Epoch, fit, mixed
from stillhouse.distill.outputs import shape_of
from stillhouse.distill.training import Ids, batches, inputs_of, lower_states
from stillhouse.models.encoder import MAX_TOKENS as LONGEST
from stillhouse.models.features import MODEL_FILE, TOKENIZER_FILE, load_tokenizer
from stillhouse.models.port import ModelError

BATCH: Final = 64
RATES: Final = {StaticEncoder: 1e-3, CutSentences: 1e-3}


def ids(texts: Sequence[str]) -> list[Ids]:
    """Token ids of texts as the encoder reads them, each int64 [n], at most 128."""
    tokenizer = load_tokenizer(encoder_source() / TOKENIZER_FILE, MAX_TOKENS)
    return [np.array(encoding.ids, dtype=np.int64) for encoding in tokenizer.encode_batch(list(texts))]


def distil(
    student: StaticEncoder | CutSentences,
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    select: Sequence[str],
    select_vectors: NDArray[np.float32],
    *,
    seed: int,
    epochs: int = 10,
    vector: float = 1.0,
    similarity: float = 1.0,
    learning_rate: float | None = None,
    threads: int = 1,
    on_progress: Callable[[Epoch], None] | None = None,
) -> StaticEncoder | CutSentences:
    """Change `student` so that its vectors of `texts` become the teacher's `vectors` [n, width]; gives it, settled.

    The loss is `vector` * `vector_loss` + `similarity` * `similarity_loss`; the epoch with the smallest `vector_loss`
    on `select` is kept, or `similarity_loss` where `vector` is 0. Raises `ModelError` where texts and vectors are not
    equally many, widths differ, or no loss has a weight.
    """
    if min(vector, similarity) < 0 or max(vector, similarity) <= 0:
        raise ModelError(f"The losses weigh {vector:g} and {similarity:g}; give none below 0, and one above it.")
    for some, of, name in ((texts, vectors, "learn from"), (select, select_vectors, "choose on")):
        if len(some) != len(of) or not len(some):
            raise ModelError(f"There are {len(some)} texts to {name} and {len(of)} vectors; give one vector a text.")
    seen, shown = ids(texts), ids(select)
    if isinstance(student, CutSentences):
        seen, shown = lower_states(student.encoder, seen), lower_states(student.encoder, shown)
    wanted = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    if isinstance(student, StaticEncoder):
        _require_width(student.map.out_features, wanted)
        student.eval()
        with torch.no_grad():
            starts = range(0, len(seen), BATCH)
            means = [student.means(*inputs_of(seen[start : start + BATCH], tokens=True)) for start in starts]
        student.begin(torch.cat(means), wanted)

    def loss_of(places: Tensor, done: float) -> Tensor:
        said = student(*inputs_of([seen[i] for i in places], tokens=True))
        loss = vector * vector_loss(said, wanted[places])
        return loss + similarity * similarity_loss(said, wanted[places]) if len(places) > 1 else loss

    def chosen() -> float:
        of_select = vector_loss if vector else similarity_loss
        return float(of_select(torch.from_numpy(_vectors(student, shown)), torch.from_numpy(select_vectors)))

    fit(
        student,
        lambda epoch, drawn: list(batches(seen, BATCH, drawn)),
        loss_of,
        epochs=epochs,
        rate=learning_rate or RATES[type(student)],
        seed=mixed(seed, 0),
        select=chosen,
        weight_decay=0.0,
        threads=threads,
        on_progress=on_progress,
    )
    student.settle()
    return student.eval()


def encode(student: StaticEncoder | CutSentences, texts: Sequence[str]) -> NDArray[np.float32]:
    """The student's vectors of `texts`, of length 1, float32 [n, width]."""
    student.eval()
    with torch.no_grad():
        return _vectors(student, ids(texts))


def export_encoder(student: StaticEncoder | CutSentences, folder: Path) -> float:
    """Write `model.onnx` and `tokenizer.json` into `folder`, as `SentenceEncoder` reads them; tables become int8.

    Gives the smallest cosine between what the files and what the module say of the tokenizer's own words (64 of them).
    Raises `ModelError` where it is below 0.99, and `OSError`.
    """
    import copy

    from stillhouse.models.encoder import SentenceEncoder

    module: Any = copy.deepcopy(student).eval()
    if isinstance(module, StaticEncoder):
        assert isinstance(module.rows.table, torch.nn.Embedding)
        module.rows.table = Int8Rows(module.rows.table.weight.detach())
    else:
        table = module.encoder.transformer.embeddings
        table.word_embeddings = Int8Rows(table.word_embeddings.weight.detach())
    example = torch.ones(2, 16, dtype=torch.long)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=LONGEST)}
    quiet, before = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns of deprecations inside itself, on every call; none of them is ours to mend.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example, example.clone()),
                dynamo=True,
                verbose=False,
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                dynamic_shapes=(axes, axes),
            )
    finally:
        quiet.setLevel(before)
    if program is None:
        raise ModelError("torch exported no graph of the encoder; install the pinned torch.")
    program.save(str(folder / MODEL_FILE), external_data=False)
    shutil.copyfile(encoder_source() / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    vocabulary = load_tokenizer(folder / TOKENIZER_FILE, MAX_TOKENS).get_vocab()
    words = [word for word in sorted(vocabulary) if word.isalpha()]
    asked = [" ".join(words[i : i + 1 + i % 9]) for i in np.linspace(0, len(words) - 10, 64).round().astype(int)]
    said, _ = SentenceEncoder(folder).encode(asked)
    nearest = float((said * encode(student, asked)).sum(axis=1).min())
    if nearest < 0.99:
        raise ModelError(f"The exported encoder differs from the trained one (cosine {nearest:.3f}); train it anew.")
    return nearest


def _require_width(width: int, wanted: Tensor) -> None:
    if wanted.shape[1:] != (width,):
        raise ModelError(
            f"The student gives vectors of {width}, the teacher's are {shape_of(wanted)}; give it that width."
        )


def _vectors(student: StaticEncoder | CutSentences, texts: Sequence[Ids]) -> NDArray[np.float32]:
    parts = np.argsort([len(text) for text in texts], kind="stable")
    found: NDArray[np.float32] | None = None
    for start in range(0, len(texts), BATCH):
        places = parts[start : start + BATCH]
        said = student(*inputs_of([texts[i] for i in places], tokens=True)).detach().numpy()
        if found is None:
            found = np.empty((len(texts), said.shape[1]), dtype=np.float32)
        found[places] = said
    assert found is not None
    return found
