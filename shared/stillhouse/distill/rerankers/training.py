"""Trains one reranker on lists. Deterministic, and resumed from its checkpoints when it was killed on the way.

The loop is `fitting.fit`: AdamW (Loshchilov & Hutter 1711.05101) with linear warm-up and cosine decay, some lists a
step, their gradients accumulated. What the layers that do not learn make of a text is computed once. The epoch with the
smallest loss on `select` is kept; where training only makes it worse, that is the state before the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.distill.cut_encoder import encoder_source
from stillhouse.distill.fitting import Epoch, fit, torch_set_up
from stillhouse.distill.rerankers.encoders import PairEncoder, Reranker, TwinEncoder
from stillhouse.distill.rerankers.lists import RankedList
from stillhouse.distill.rerankers.objective import rerank_loss
from stillhouse.distill.together import asked_together, train_together
from stillhouse.models.features import TOKENIZER_FILE
from stillhouse.models.port import ModelError
from stillhouse.models.rerank_student import RerankSpec, load_reranker_tokenizer, read_of, within_list
from stillhouse.models.rerank_text import LEXICON_FILE, Lexicon, Read
from stillhouse.tasks.rerankers import RerankerStudent

RUN_VERSION: Final = 2  # part of a run's name: raise it when the same data and seed would give another reranker
RATE: Final = 1e-4
HEAD_RATE: Final = 10.0  # times the rate
DECAY: Final = 0.01
MOST_STATES: Final = 1 << 30  # bytes kept, in half precision, of what never changes
WIDTH: Final = 384

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RerankProgress:
    """One epoch's end. Losses are the objective's; `lists_per_s` of training alone; `seconds` of all attempts."""

    epoch: int
    epochs: int
    train_loss: float
    select_loss: float
    lists_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainedReranker:
    """A trained module with what `export` needs; `spec` is complete but for id, weights and confidence."""

    candidate: RerankerStudent
    module: Reranker
    spec: RerankSpec
    lexicon: Lexicon
    tokenizer: Path


@dataclass(slots=True)
class _List:
    """A list as the module takes it: texts as ids (of a bi-encoder the query first), and targets [1, documents]."""

    texts: list[Ids]
    types: list[Ids]
    features: Tensor
    teacher: Tensor | None
    relevance: Tensor | None
    weight: float


def train_reranker(
    candidate: RerankerStudent,
    train: Sequence[RankedList],
    select: Sequence[RankedList],
    *,
    on_progress: Callable[[RerankProgress], None],
    checkpoint_dir: Path,
    seed: int,
    threads: int = 1,
    lexicon: Lexicon | None = None,
) -> TrainedReranker:
    """Train `candidate` on `train`, choosing the epoch on `select`. Lists are taken as they are: cut them before.

    `lexicon` None: it is fitted on the documents of `train`. `checkpoint_dir` must exist. Raises `ModelError` and
    `OSError`.

    >>> from tempfile import TemporaryDirectory
    >>> fruit = RankedList("red fruit", ("an apple", "a blue car"), teacher=(3.0, -3.0))
    >>> sea = RankedList("salt water", ("a green tree", "the sea"), teacher=(-3.0, 3.0))
    >>> candidate = RerankerStudent(architecture="bi_encoder", layers=2, epochs=1)
    >>> with TemporaryDirectory() as folder:
    ...     kept = {"on_progress": lambda at: None, "checkpoint_dir": Path(folder)}
    ...     student = train_reranker(candidate, [fruit, sea], [fruit], seed=0, **kept)
    >>> scores_of_list(student, "salt water", ["a green tree", "the sea"]).argmax().item()
    1
    """
    train = [one for one in train if len(one.documents) > 1]
    select = [one for one in select if len(one.documents) > 1]
    if not train or not select:
        raise ModelError("A reranker needs lists of two documents to learn from and to choose on; there are none.")
    tokenizer = encoder_source() / TOKENIZER_FILE
    lexicon = lexicon or Lexicon.fit(sorted({text for one in train for text in one.documents}))
    if asked_together(candidate.processes):
        job = {"student": candidate.model_dump(mode="json"), "seed": seed}
        job |= {"lexicon": str(checkpoint_dir / LEXICON_FILE)}
        lexicon.write(checkpoint_dir / LEXICON_FILE)
        rows = {"train": [asdict(one) for one in train], "select": [asdict(one) for one in select]}
        train_together(
            {**job, **rows},
            checkpoint_dir,
            candidate.processes,
            threads,
            lambda epoch: on_progress(RerankProgress(**epoch)),
        )  # what follows finds a finished run
    pairs = candidate.architecture == "cross_encoder"
    spec = RerankSpec("", candidate.architecture, candidate.max_tokens, passages=candidate.reads == "passage")
    with torch_set_up(threads):
        torch.manual_seed(seed)
        make = PairEncoder if pairs else TwinEncoder
        module = Reranker(make(candidate.layers, candidate.learn_layers))
        shown = [_prepared(one, spec, lexicon, tokenizer) for one in (*train, *select)]
        seen, chosen = shown[: len(train)], shown[len(train) :]
        rate = candidate.learning_rate or RATE

        @cache  # and not at once: a finished run is only loaded
        def states() -> dict[bytes, NDArray[np.float16]]:
            return _lower_states(module, shown)

        def batches_of(epoch: int, _: int) -> list[_List]:
            states()  # here, where nothing is in half precision, also when a run goes on
            return [seen[place] for place in np.random.default_rng([seed, epoch]).permutation(len(seen))]

        def loss_of_select() -> float:
            return sum(float(_loss(module, one, states(), candidate)) for one in chosen) / len(chosen)

        def report(epoch: Epoch) -> None:
            assert epoch.select_loss is not None
            on_progress(
                RerankProgress(
                    epoch.epoch,
                    epoch.epochs,
                    epoch.train_loss,
                    epoch.select_loss,
                    len(seen) / epoch.training_s,
                    epoch.seconds,
                )
            )

        fit(
            module,
            batches_of,
            lambda one, _: _loss(module, one, states(), candidate) * one.weight,
            epochs=candidate.epochs,
            rate=rate,
            rate_of=lambda name: 1.0 if ".layer." in name else HEAD_RATE,
            seed=seed,
            select=loss_of_select,
            patience=candidate.patience,
            keep_start=True,
            accumulate=candidate.batch_size,  # one after the other: memory is one list's
            bf16=candidate.precision == "bfloat16",
            weight_decay=DECAY,
            threads=threads,
            checkpoint_dir=checkpoint_dir,
            run=_run_name(candidate, train, select, seed),
            on_progress=report,
        )
    return TrainedReranker(candidate, module.eval(), spec, lexicon, tokenizer)


def scores_of_list(trained: TrainedReranker, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
    """What the trained module scores a list with, float32 [documents]: what its exported graph is compared with."""
    one = _prepared(
        RankedList(query, tuple(documents), (0.0,) * len(documents)), trained.spec, trained.lexicon, trained.tokenizer
    )
    with torch.no_grad():
        return np.asarray(_scores(trained.module, one, {})[0].numpy(), dtype=np.float32)


def _prepared(one: RankedList, spec: RerankSpec, lexicon: Lexicon, path: Path) -> _List:
    tokenizer = load_reranker_tokenizer(path, spec.max_tokens)
    read = [Read.of(document) for document in one.documents]
    texts = read_of(spec, lexicon, one.query, read)
    if spec.architecture == "cross_encoder":
        encodings = tokenizer.encode_batch([(one.query, text) for text in texts])
    else:
        encodings = tokenizer.encode_batch([one.query, *texts])
    return _List(
        [np.array(encoding.ids, dtype=np.int64) for encoding in encodings],
        [np.array(encoding.type_ids, dtype=np.int64) for encoding in encodings],
        torch.from_numpy(within_list(lexicon.features(one.query, read))),
        None if one.teacher is None else torch.tensor([one.teacher]),
        None if one.relevance is None else torch.tensor([one.relevance]),
        one.weight,
    )


def _loss(module: Reranker, one: _List, states: dict[bytes, NDArray[np.float16]], candidate: RerankerStudent) -> Tensor:
    return rerank_loss(
        _scores(module, one, states),
        one.teacher,
        one.relevance,
        objective=candidate.objective,
        alpha=candidate.alpha,
        temperature=candidate.temperature,
    )


def _scores(module: Reranker, one: _List, states: dict[bytes, NDArray[np.float16]]) -> Tensor:
    """Scores float32 [1, documents]."""
    inputs, mask, types = _inputs(one.texts, one.types, states)
    lexical: Tensor = module.lexical(one.features).squeeze(1)
    if isinstance(module.encoder, PairEncoder):
        scores: Tensor = module.encoder(inputs, mask, types)
    else:
        vectors: Tensor = module.encoder(inputs, mask)
        scores = module.encoder.cosine * (vectors[1:] @ vectors[0])
    return (scores + lexical).unsqueeze(0)


def _lower_states(module: Reranker, lists: Sequence[_List]) -> dict[bytes, NDArray[np.float16]]:
    """What the layers that do not learn make of each text, by its ids; empty where it would take too much memory."""
    texts = {ids.tobytes(): (ids, kinds) for one in lists for ids, kinds in zip(one.texts, one.types, strict=True)}
    if sum(len(ids) for ids, _ in texts.values()) * WIDTH * 2 > MOST_STATES:
        return {}
    order = sorted(texts, key=lambda key: len(texts[key][0]))
    states: dict[bytes, NDArray[np.float16]] = {}
    with torch.no_grad():
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            inputs, mask, types = _inputs([texts[key][0] for key in part], [texts[key][1] for key in part], {})
            encoder = module.encoder
            if isinstance(encoder, PairEncoder):
                found = encoder.lower(inputs, mask, types)
            else:
                found = encoder.lower(inputs, mask)
            for key, row in zip(part, found.half().numpy(), strict=True):
                states[key] = row[: len(texts[key][0])].copy()
    return states


def _inputs(
    texts: Sequence[Ids], types: Sequence[Ids], states: dict[bytes, NDArray[np.float16]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids int64 [B, n] or states float32 [B, n, width], the mask and the types int64 [B, n], padded with 0."""
    longest = max(len(ids) for ids in texts)
    mask = np.zeros((len(texts), longest), dtype=np.int64)
    kinds, ids_padded = np.zeros_like(mask), np.zeros_like(mask)
    for row, (ids, kind) in enumerate(zip(texts, types, strict=True)):
        mask[row, : len(ids)], kinds[row, : len(ids)], ids_padded[row, : len(ids)] = 1, kind, ids
    if not states:
        return torch.from_numpy(ids_padded), torch.from_numpy(mask), torch.from_numpy(kinds)
    padded = np.zeros((len(texts), longest, WIDTH), dtype=np.float32)
    for row, ids in enumerate(texts):
        padded[row, : len(ids)] = states[ids.tobytes()]
    return torch.from_numpy(padded), torch.from_numpy(mask), torch.from_numpy(kinds)


def _run_name(candidate: RerankerStudent, train: Sequence[RankedList], select: Sequence[RankedList], seed: int) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps((RUN_VERSION, candidate.model_dump(mode="json"), seed, torch.__version__)).encode())
    for lists in (train, select):
        digest.update(json.dumps([asdict(one) for one in lists]).encode())
    return digest.hexdigest()
