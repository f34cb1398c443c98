"""Few-shot prompting (Brown et al. 2005.14165): no weight learns; recorded answers stand before every question.

Which ones: the medoids of as many clusters as there may be examples, so that each stands for a part of the questions
(k-medoids by alternation, Park & Jun 2009, begun from k-centre's greedy choice, Gonzalez 1985). Questions are compared
by the mean of the base model's own token embeddings, rare tokens weighing more (inverse document frequency): that
needs no other model and no pass through this one.

In which order: the largest cluster last, beside the question, for a model leans towards what it read last (Zhao et al.
2102.09690). What does not fit the budget of tokens is left out, the smallest clusters first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.distill.causal_lm.examples import WrittenText, messages_of
from stillhouse.models.port import ModelError

MOST: Final = 2000  # questions that are compared with each other; of more, a sample
ROUNDS: Final = 30

Floats = NDArray[np.float32]


def choose_examples(
    model: Any, tokenizer: Any, texts: Sequence[WrittenText], shots: int, budget: int, seed: int
) -> list[WrittenText]:
    """At most `shots` of `texts` that take at most `budget` tokens together, in the order of the prompt.

    Only plain texts, a single message of a user, are taken. Raises `ModelError` where none fits.
    """
    plain = [text for text in texts if text.request.as_input()[0] == "text"]
    if len(plain) > MOST:
        chosen = np.random.default_rng(seed).choice(len(plain), MOST, replace=False)
        plain = [plain[i] for i in sorted(chosen)]
    tokens = [tokenizer(text.request.question, add_special_tokens=False)["input_ids"] for text in plain]
    lengths = [len(ids) + len(tokenizer(text.answer)["input_ids"]) for ids, text in zip(tokens, plain, strict=True)]
    fitting = [i for i, length in enumerate(lengths) if length <= budget]
    if not fitting:
        raise ModelError(f"no recorded answer fits into example_tokens = {budget}; set a larger one.")
    table = model.get_input_embeddings().weight.detach().float().cpu().numpy()
    distances = distances_between(embeddings_of([tokens[i] for i in fitting], table))
    medoids, sizes = k_medoids(distances, min(shots, len(fitting)))
    left, taken = budget, []
    for cluster in sorted(range(len(medoids)), key=lambda one: -sizes[one]):
        place = fitting[medoids[cluster]]
        if lengths[place] <= left:
            left -= lengths[place]
            taken.append(plain[place])
    return taken[::-1]


def prompt_tokens(tokenizer: Any, examples: Sequence[WrittenText]) -> int:
    """How many tokens `examples` take as a conversation, with what the chat template puts around them."""
    said = [
        message
        for text in examples
        for message in (*messages_of(text.request), {"role": "assistant", "content": text.answer})
    ]
    return len(tokenizer(tokenizer.apply_chat_template(said, tokenize=False), add_special_tokens=False)["input_ids"])


def embeddings_of(tokens: Sequence[Sequence[int]], table: Floats) -> Floats:
    """Mean embedding of each text's tokens, weighted by inverse document frequency; [texts, dims], each of length 1.

    >>> alike = embeddings_of([[0, 1], [0, 1], [2]], np.eye(3, dtype=np.float32))
    >>> distances_between(alike).round().tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    counts = np.bincount([token for ids in tokens for token in set(ids)], minlength=len(table))
    weights = np.log((1 + len(tokens)) / (1 + counts)) + 1
    means = np.stack([(weights[list(ids)] @ table[list(ids)]) if ids else np.zeros(table.shape[1]) for ids in tokens])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    embeddings: Floats = (means / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return embeddings


def distances_between(embeddings: Floats) -> Floats:
    """Euclidean distance of every pair; [texts, texts]."""
    squared = 2 - 2 * (embeddings @ embeddings.T)
    distances: Floats = np.sqrt(np.clip(squared, 0, None))
    return distances


def k_medoids(distances: Floats, k: int) -> tuple[list[int], list[int]]:
    """The places of `k` medoids and the sizes of their clusters; the summed distance to the nearest only falls.

    >>> places = np.array([0.0, 1.0, 2.0, 9.0, 10.0], dtype=np.float32)
    >>> k_medoids(np.abs(places[:, None] - places[None, :]), 2)
    ([1, 3], [3, 2])
    """
    medoids = k_centres(distances, k)
    for _ in range(ROUNDS):
        nearest = distances[:, medoids].argmin(axis=1)
        better = []
        for cluster, medoid in enumerate(medoids):
            members = np.flatnonzero(nearest == cluster)
            within = distances[np.ix_(members, members)].sum(axis=1)
            better.append(int(members[within.argmin()]) if len(members) else medoid)
        if better == medoids:
            break
        medoids = better
    nearest = distances[:, medoids].argmin(axis=1)
    return medoids, [int((nearest == cluster).sum()) for cluster in range(len(medoids))]


def k_centres(distances: Floats, k: int) -> list[int]:
    """The medoid of all, then always what is farthest from those that are chosen; at most `k`, and no two alike.

    >>> places = np.array([0.0, 1.0, 2.0, 2.0], dtype=np.float32)
    >>> k_centres(np.abs(places[:, None] - places[None, :]), 4)
    [1, 0, 2]
    """
    centres = [int(distances.sum(axis=1).argmin())]
    while len(centres) < k:
        apart = distances[:, centres].min(axis=1)
        farthest = int(apart.argmax())
        if apart[farthest] <= 0:
            break
        centres.append(farthest)
    return centres
