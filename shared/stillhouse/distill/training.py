"""Trains one student on the teacher's answers. Deterministic: the same data and seed give the same weights, also when
the run was killed on the way and resumed from its checkpoints.

The loop is `fitting.fit`: AdamW (Loshchilov & Hutter 1711.05101) with linear warm-up and cosine decay, gradient
accumulation and bfloat16 where the candidate wants them. After each epoch the student is asked about `select`, which
it does not learn from; the epoch with the smallest calibrated loss there is kept. Afterwards what serves in int8 may
learn on with the rounding that int8 will do (`quantization_aware_epochs`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.assistant import more_texts
from stillhouse.distill.augmentation.mixup import mixed_soft_target_loss
from stillhouse.distill.calibration import calibrate
from stillhouse.distill.checkpoint import Checkpoints
from stillhouse.distill.confidence import FEWEST_TEXTS
from stillhouse.distill.cut_encoder import MAX_TOKENS, CutEncoder, encoder_source
from stillhouse.distill.data import LabelledText, hard_targets, soft_targets
from stillhouse.distill.difficulty import losses_of_texts
from stillhouse.distill.fitting import Epoch, fit, torch_set_up
from stillhouse.distill.hashed_ngrams import HashedNgrams
from stillhouse.distill.model2vec import VECTORS_FILE, model2vec_vectors
from stillhouse.distill.pacing import Pacing, of_places
from stillhouse.distill.quantisation_aware import rounded
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.distill.static_embeddings import StaticEmbeddings, token_vectors
from stillhouse.distill.teaching import EXAMPLES, Teaching
from stillhouse.distill.text_cnn import TextCnn
from stillhouse.distill.together import asked_together, train_together
from stillhouse.distill.width_pruning import narrow
from stillhouse.models.encoder import WIDTH
from stillhouse.models.features import PADDING, TOKENIZER_FILE, Featuriser, Inputs, StudentSpec, prepare
from stillhouse.models.port import ModelError
from stillhouse.tasks.students import STATIC, StudentCandidate

MAX_FEATURES: Final = 1024
# Times the rate, of heads on what is trained already: these start from nothing, what is below them does not.
HEAD_RATES: Final = {"cut_encoder": 10.0, "static_embeddings": 2.5, "text_cnn": 2.5}
# Part of a run's name: raise it when the same data and seed would give another student.
RUN_VERSION: Final = 3
ROUNDED_RATE: Final = 0.1  # times the rate: what is learnt already is only moved to where rounding hurts it less
DROPOUT: Final = 0.1  # before the head of what reads static vectors
_INPUTS: Final[dict[str, tuple[Inputs, int]]] = {  # and the most of them: features, or tokens
    "hashed_ngrams": ("hashed_ngrams", MAX_FEATURES),
    "static_embeddings": ("token_ids", 512),
    "text_cnn": ("token_ids", 512),
    "cut_encoder": ("tokens", MAX_TOKENS),
}
MOST_STATES: Final = 1 << 30  # bytes kept of what never changes; longer texts are computed anew in each epoch


Student = HashedNgrams | StaticEmbeddings | TextCnn | CutEncoder
Held = TypeVar("Held")
Ids = NDArray[Any]  # one text: ids int64 [n], or states float32 [n, width]


@dataclass(frozen=True, slots=True)
class Progress:
    """One epoch's end. Losses in nats; `select_agreement` in [0, 1]; `texts_per_s` of training alone.

    `select_loss` is the negative log-likelihood of the teacher's labels after temperature scaling; `seconds` counts all
    attempts.
    """

    epoch: int
    epochs: int
    train_loss: float
    select_loss: float
    select_agreement: float
    learning_rate: float
    texts_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainedStudent:
    """A trained module with what `export` needs. `spec` is complete but for the student's id.

    `select_texts` are those that export compares the exported graph on; on `held`, which neither taught nor chose
    anything, it fits the confidence. `centroids`, float32 [labels, width], where the student has an encoder.

    >>> from tempfile import TemporaryDirectory
    >>> texts = [LabelledText(text, label) for text, label in [("where is it", "order"), ("money back", "refund")] * 8]
    >>> candidate = StudentCandidate(architecture="hashed_ngrams", dim=8, epochs=3, batch_size=4)
    >>> with TemporaryDirectory() as folder:
    ...     kept = {"on_progress": lambda at: None, "checkpoint_dir": Path(folder)}
    ...     student = train(candidate, ["order", "refund"], texts, texts[:2], seed=0, **kept)
    >>> type(student.module).__name__, student.labels
    ('HashedNgrams', ('order', 'refund'))
    """

    candidate: StudentCandidate
    labels: tuple[str, ...]
    module: nn.Module
    spec: StudentSpec
    temperature: float
    tokenizer: Path | None
    select_texts: tuple[str, ...]
    held: tuple[LabelledText, ...] = ()
    centroids: NDArray[np.float32] | None = None


def train(
    candidate: StudentCandidate,
    labels: Sequence[str],
    train: Sequence[LabelledText],
    select: Sequence[LabelledText],
    *,
    on_progress: Callable[[Progress], None],
    checkpoint_dir: Path,
    seed: int,
    threads: int = 1,
    made: Sequence[LabelledText] | None = None,
) -> TrainedStudent:
    """Train `candidate` on `train`, choosing the epoch and the temperature on `select`.

    Where there are enough, every third of `select` is held back for the confidence, and chooses nothing. `made`: what
    `assistant.more_texts` gave for these texts, where it is at hand; else it is made, if the candidate wants it.
    `checkpoint_dir` must exist; a run with the same arguments that was stopped there goes on where it was. Raises
    `ModelError`, `OSError`, and torch's errors of memory as they are.
    """
    if not train or not select:
        raise ModelError("A student needs texts to learn from and texts to choose on; one of the two sets is empty.")
    labels = tuple(labels)
    told, (select, held) = (train, select), hold_back(select)
    spec = spec_of(candidate, labels)
    tokens = spec.has_vectors
    tokenizer = None if spec.inputs == "hashed_ngrams" else (candidate.vectors or encoder_source()) / TOKENIZER_FILE
    if candidate.synthetic and candidate.architecture in STATIC:
        if made is None:
            run = _run_name(candidate, labels, train, select, seed)
            with torch_set_up(threads):
                made = more_texts(train, select, labels, candidate.synthetic, seed=seed, folder=checkpoint_dir, run=run)
        train = [*train, *made]
    if asked_together(candidate.processes):
        job = {"student": candidate.model_dump(mode="json"), "labels": labels, "seed": seed}
        rows = zip(("train", "select", "made"), (*told, made or ()), strict=True)
        train_together(
            {**job, **{name: [asdict(text) for text in texts] for name, texts in rows}},
            checkpoint_dir,
            candidate.processes,
            threads,
            lambda epoch: on_progress(Progress(**epoch)),
        )  # what follows finds a finished run
    featuriser = Featuriser(spec, tokenizer)
    seen: list[Ids] = [featuriser.ids(prepare(text.text)) for text in train]
    shown: list[Ids] = [featuriser.ids(prepare(text.text)) for text in select]
    soft, hard = torch.from_numpy(soft_targets(train, labels)), torch.from_numpy(hard_targets(train, labels))
    answers = hard_targets(select, labels)
    # None and not ones: the mean of a batch is then computed as it always was, to the bit.
    weights = None if len({text.weight for text in train}) == 1 else torch.tensor([text.weight for text in train])
    alphas = _alphas(candidate, labels)[hard] if candidate.class_alpha else candidate.alpha

    with torch_set_up(threads):
        torch.manual_seed(seed)
        module, rate, decay = _module_of(candidate, len(labels), seen)
        rate = candidate.learning_rate or rate
        read = seen, shown  # as ids
        kept = isinstance(module, CutEncoder) and _bytes_of_states(seen) <= MOST_STATES
        if isinstance(module, CutEncoder) and kept:
            seen, shown = lower_states(module, seen), lower_states(module, shown)
        run = _run_name(candidate, labels, train, select, seed)
        pacing = Pacing(
            candidate,
            soft.numpy(),
            lambda: losses_of_texts([prepare(text.text) for text in train], soft, hard, seed=seed, threads=threads),
        )
        taught: Teaching | None = None
        learning: nn.Module = module
        if candidate.distill:
            prepared, example = [text.text for text in train], inputs_of(seen[: EXAMPLES if tokens else 2], tokens)
            taught = Teaching(candidate.distill, module, labels, prepared, soft, hard, weights, example)
            learning = nn.ModuleDict({"student": module, "recipe": taught.recipe})
        # A head on what is trained already starts from nothing, so it has further to go than what is below it.
        heads = HEAD_RATES.get(candidate.architecture, 1.0)
        head = "student.head." if taught is not None else "head."
        now: Sequence[Ids] = seen  # what this epoch shows of each text
        agreement = 0.0
        after, earlier = 0, 0.0  # epochs and seconds before those with rounding

        def batches_of(epoch: int, drawn: int) -> list[Tensor]:
            nonlocal now
            places, now = pacing.taught(after + epoch), pacing.thinned(seen, drawn)
            paced = seen if places is None else [seen[i] for i in places]
            return list(of_places(places, batches(paced, candidate.batch_size, drawn)))

        def loss_of(batch: Tensor, done: float) -> Tensor:
            inputs = inputs_of([now[i] for i in batch], tokens)
            if taught is not None:
                return taught.loss(batch, inputs)
            done = 1.0 if after else done
            temperature = pacing.temperature(done)
            alpha = pacing.alpha(done) if isinstance(alphas, float) else alphas[batch]
            weight = None if weights is None else weights[batch]
            if candidate.mixup:
                told = (soft[batch], hard[batch], temperature, alpha, weight)
                return mixed_soft_target_loss(module, module.head, inputs, *told, candidate.mixup)
            said = module(*inputs)
            return soft_target_loss(said[0] if tokens else said, soft[batch], hard[batch], temperature, alpha, weight)

        def loss_of_select() -> float:
            nonlocal agreement
            scores = predict(module, shown, tokens)
            agreement = float((scores.argmax(axis=1) == answers).mean())
            return calibrate(scores, answers)[1]

        def report(epoch: Epoch) -> None:
            assert epoch.select_loss is not None
            on_progress(
                Progress(
                    epoch=after + epoch.epoch,
                    epochs=candidate.epochs + candidate.quantization_aware_epochs,
                    train_loss=epoch.train_loss,
                    select_loss=epoch.select_loss,
                    select_agreement=agreement,
                    learning_rate=epoch.learning_rate,
                    texts_per_s=len(seen) / epoch.training_s,
                    seconds=earlier + epoch.seconds,
                )
            )

        fitted = partial(
            fit,
            learning,
            batches_of,
            loss_of,
            rate_of=lambda name: heads if name.startswith(head) else 1.0,
            seed=seed,
            select=loss_of_select,
            patience=candidate.patience,
            accumulate=candidate.accumulate,
            bf16=candidate.precision == "bfloat16",
            weight_decay=decay,
            threads=threads,
            run=run,
            on_progress=report,
        )
        fitted(epochs=candidate.epochs, rate=rate, checkpoint_dir=checkpoint_dir)
        if candidate.quantization_aware_epochs:
            folder, states = checkpoint_dir / "rounded", (seen, shown)
            folder.mkdir(exist_ok=True)
            after, earlier = candidate.epochs, Checkpoints(checkpoint_dir, run).seconds()
            with rounded(module):
                if isinstance(module, CutEncoder) and kept:  # what is below is rounded, too
                    seen, shown = lower_states(module, read[0]), lower_states(module, read[1])
                fitted(
                    epochs=candidate.quantization_aware_epochs,
                    rate=rate * ROUNDED_RATE,
                    keep_start=True,
                    checkpoint_dir=folder,
                )
            seen, shown = states
        if isinstance(module, StaticEmbeddings | TextCnn):
            module.settle()
        temperature, _ = calibrate(predict(module, shown, tokens), answers)
        middles = centroids(module, seen, hard.numpy(), len(labels)) if tokens else None
    return TrainedStudent(
        candidate=candidate,
        labels=labels,
        module=module.eval(),
        spec=replace(spec, temperature=temperature),
        temperature=temperature,
        tokenizer=tokenizer,
        select_texts=tuple(text.text for text in select),
        held=tuple(held),
        centroids=middles,
    )


def spec_of(candidate: StudentCandidate, labels: tuple[str, ...]) -> StudentSpec:
    """What serving must know of a student of one part, but for its id, temperature and confidence."""
    inputs, longest = _INPUTS[candidate.architecture]
    return StudentSpec(
        student_id="",
        architecture=candidate.architecture,
        labels=labels,
        inputs=inputs,
        max_length=longest,
        max_features=MAX_FEATURES,
        buckets=candidate.buckets,
    )


def _module_of(candidate: StudentCandidate, labels: int, seen: Sequence[Ids]) -> tuple[Student, float, float]:
    """The untrained student, and its architecture's learning rate and weight decay."""
    hidden = candidate.hidden
    if candidate.architecture == "hashed_ngrams":
        return HashedNgrams(seen, candidate.buckets, candidate.dim, labels, hidden), 1e-2, 0.0
    if candidate.architecture == "cut_encoder":
        encoder = CutEncoder(candidate.layers, labels, hidden, candidate.learn_layers)
        narrow(encoder, seen, candidate.width)
        return encoder, 1e-3, 0.01
    vectors = token_vectors(candidate.dim) if candidate.vectors is None else model2vec_vectors(candidate.vectors)
    if candidate.architecture == "text_cnn":
        return TextCnn(seen, vectors, labels, filters=candidate.filters, hidden=hidden, dropout=DROPOUT), 2e-3, 0.0
    return StaticEmbeddings(seen, vectors, labels, hidden=hidden, dropout=DROPOUT), 2e-3, 0.0


def hold_back(select: Sequence[Held]) -> tuple[Sequence[Held], Sequence[Held]]:
    """The texts that choose, and those held back for the confidence: every third, where there are enough of them."""
    if len(select) < 3 * FEWEST_TEXTS:
        return select, ()
    return [text for i, text in enumerate(select) if i % 3 != 2], select[2::3]


def lower_states(module: CutEncoder, texts: Sequence[Ids]) -> list[Ids]:
    """What the layers that do not learn make of texts given as ids, each float32 [n, width]: computed once."""
    states: list[Ids] = [np.empty(0)] * len(texts)
    order = np.argsort([len(ids) for ids in texts], kind="stable")
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            places = order[start : start + 64]
            found = module.lower(*inputs_of([texts[i] for i in places], tokens=True)).numpy()
            for place, row in zip(places, found, strict=True):
                states[place] = row[: len(texts[place])].copy()
    return states


def _bytes_of_states(texts: Sequence[Ids]) -> int:
    return sum(len(ids) for ids in texts) * WIDTH * 4


def _alphas(candidate: StudentCandidate, labels: Sequence[str]) -> Tensor:
    """The weight of hard labels for each label, float32 [labels]."""
    return torch.tensor([candidate.class_alpha.get(label, candidate.alpha) for label in labels])


def batches(seen: Sequence[Ids], size: int, seed: int) -> Iterator[Tensor]:
    """Random batches of places in `seen`, int64 [<= size], each place once; texts of a batch are about equally long."""
    random = np.random.default_rng(seed)
    lengths = np.array([len(ids) for ids in seen])
    # Noise of a fifth: who shares a batch with whom changes from epoch to epoch.
    order = np.argsort(lengths * random.uniform(0.9, 1.1, len(seen)), kind="stable")
    starts = random.permutation(np.arange(0, len(seen), size))
    for start in starts:
        yield torch.from_numpy(order[start : start + size])


def predict(module: nn.Module, texts: Sequence[Ids], tokens: bool) -> NDArray[np.float32]:
    """Logits float32 [n, labels] of texts given as ids, each int64 [n], or as `lower_states`."""
    return _outputs(module, texts, tokens, 0)


def centroids(module: nn.Module, texts: Sequence[Ids], answers: NDArray[np.int64], labels: int) -> NDArray[np.float32]:
    """The mean sentence vector of each label's texts, of length 1, float32 [labels, width]; 0 for one without texts."""
    vectors = _outputs(module, texts, True, 1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((labels, vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, answers, vectors)
    return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def _outputs(module: nn.Module, texts: Sequence[Ids], tokens: bool, which: int) -> NDArray[np.float32]:
    """The module's output number `which` for every text, float32 [n, ...]."""
    module.eval()
    order = np.argsort([len(ids) for ids in texts], kind="stable")
    parts: list[NDArray[np.float32]] = []
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            said = module(*inputs_of([texts[i] for i in order[start : start + 64]], tokens))
            parts.append((said[which] if tokens else said).float().numpy())
    found = np.concatenate(parts)
    in_order = np.empty_like(found)
    in_order[order] = found
    return in_order


def inputs_of(texts: Sequence[Ids], tokens: bool) -> tuple[Tensor, ...]:
    """The module's inputs, padded with 0: ids int64 [B, n] or states float32 [B, n, width], and for tokens the mask."""
    longest = max(len(text) for text in texts)
    padded = np.full((len(texts), longest, *texts[0].shape[1:]), PADDING, dtype=texts[0].dtype)
    mask = np.zeros((len(texts), longest), dtype=np.int64)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return (torch.from_numpy(padded), torch.from_numpy(mask)) if tokens else (torch.from_numpy(padded),)


def _run_name(
    candidate: StudentCandidate,
    labels: Sequence[str],
    train: Sequence[LabelledText],
    select: Sequence[LabelledText],
    seed: int,
) -> str:
    digest = hashlib.sha256()
    facts = (RUN_VERSION, candidate.model_dump(mode="json"), labels, seed, torch.__version__)
    digest.update(json.dumps(facts).encode())
    if candidate.vectors is not None:
        for name in (VECTORS_FILE, TOKENIZER_FILE):
            digest.update((candidate.vectors / name).read_bytes())
    for texts in (train, select):
        digest.update(json.dumps([asdict(text) for text in texts]).encode())
    return digest.hexdigest()
