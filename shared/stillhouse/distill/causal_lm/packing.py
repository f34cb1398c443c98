"""Several examples in one row, none of which sees another: no time is spent on padding.

Rows are filled first-fit in the given order (Krell et al. 2107.02027 compare packings; for examples that are short
beside a row all of them come near to 100 %). A block-diagonal causal mask and positions that begin anew keep the
examples apart, so that a packed example gives what it would give alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stillhouse.distill.causal_lm.examples import Encoded

SHORTEST_ROW = 256  # tokens: longer rows spend more on attention between examples that must not see each other


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of packed examples [R, L].

    `mask` bool [R, 1, L, L]: who sees whom. `at` int64 [m]: places in the flattened rows whose next token is learned,
    `targets` int64 [m] what it is, `weights` float32 [m] how much it counts. `tokens`: without padding.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    at: Tensor
    targets: Tensor
    weights: Tensor
    tokens: int

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        names = ("ids", "positions", "mask", "at", "targets", "weights")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def pack(lengths: Sequence[int], row: int) -> list[list[int]]:
    """Which examples share a row of `row` tokens, first-fit in order. ValueError for one that is longer than a row.

    >>> pack([5, 4, 3], row=8)
    [[0, 2], [1]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for example, length in enumerate(lengths):
        if length > row:
            raise ValueError(f"an example of {length} tokens does not fit into a row of {row}")
        place = next((i for i, left in enumerate(room) if left >= length), None)
        if place is None:
            rows.append([])
            room.append(row)
            place = len(rows) - 1
        rows[place].append(example)
        room[place] -= length
        if len(room) > 64:  # rows that are nearly full are not looked at for ever
            room = [0] * (len(room) - 64) + room[-64:]
    return rows


def batch_of(rows: Sequence[Sequence[Encoded]], padding: int) -> Batch:
    """The tensors of some rows."""
    length = max(sum(len(example) for example in row) for row in rows)
    ids = np.full((len(rows), length), padding, dtype=np.int64)
    positions = np.zeros((len(rows), length), dtype=np.int64)
    # What is padding sees itself alone: a row of a softmax with nothing in it would not be a number.
    owner = np.tile(-1 - np.arange(length), (len(rows), 1))
    at: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    for number, row in enumerate(rows):
        start = 0
        for which, example in enumerate(row):
            end = start + len(example)
            ids[number, start:end] = example.ids
            positions[number, start:end] = np.arange(len(example))
            owner[number, start:end] = which
            learnt = range(example.answer_at, len(example))
            at += [number * length + start + place - 1 for place in learnt]
            targets += [int(example.ids[place]) for place in learnt]
            weights += [example.weight] * len(learnt)
            start = end
    together = torch.from_numpy(owner[:, :, None] == owner[:, None, :])
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        (together & causal)[:, None],
        torch.tensor(at),
        torch.tensor(targets),
        torch.tensor(weights),
        sum(len(example) for row in rows for example in row),
    )
