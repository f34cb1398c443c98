"""Token dropout: the student sees each text with some tokens left out, and must still answer as the teacher did.

Word dropout of Iyyer et al. (Deep averaging networks, ACL 2015, section 3.1), the deletion of EDA (Wei & Zou
1901.11196). The teacher's answer to the whole text stays the target.

>>> import numpy as np
>>> drop_tokens(np.array([101, 7, 8, 9, 102]), 0.0, np.random.default_rng(0), keep=(101, 102)).tolist()
[101, 7, 8, 9, 102]
>>> drop_words("please cancel my order", 0.5, np.random.default_rng(1))
'please cancel order'
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray


def drop_tokens(
    ids: NDArray[Any], share: float, random: np.random.Generator, keep: Collection[int] = (), *, ends: bool = False
) -> NDArray[Any]:
    """`ids` [n] (or states [n, width]) without each with probability `share`; never those of `keep`, never all.

    `ends`: the first and the last stay, too. They are [CLS] and [SEP] of an encoder's input, which states no longer
    say by themselves. ValueError for a share outside of [0, 1).

    >>> states = np.arange(8.0).reshape(4, 2)
    >>> drop_tokens(states, 0.99, np.random.default_rng(0), ends=True).tolist()
    [[0.0, 1.0], [6.0, 7.0]]
    """
    stays = random.random(len(ids)) >= _checked(share)
    if keep and ids.ndim == 1:
        stays |= np.isin(ids, list(keep))
    if ends:
        stays[:1] = stays[-1:] = True
    if len(ids) and not stays.any():
        stays[random.integers(len(ids))] = True
    return ids[stays]


def drop_words(text: str, share: float, random: np.random.Generator) -> str:
    """`text` without each word (as white space divides them) with probability `share`, never without all."""
    words = np.array(text.split(), dtype=object)
    if not len(words):
        return text
    return " ".join(drop_tokens(words, share, random).tolist())


def _checked(share: float) -> float:
    if not 0.0 <= share < 1.0:
        raise ValueError(f"a share of {share:g} cannot be dropped; give a number from 0 to below 1")
    return share
