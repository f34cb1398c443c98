"""When memory runs out: the same work in smaller pieces, and where there is no smaller one, a sentence that says so.

>>> def work(size):
...     if size > 3:
...         raise MemoryError
...     return "done"
>>> halving(work, 16, "row")
('done', 2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import torch

from stillhouse.models.port import ModelError

T = TypeVar("T")
SAID: Final = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def ran_out(error: BaseException) -> bool:
    """Whether memory ran out: torch has an exception of its own on a GPU, and a plain `RuntimeError` on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in SAID)


def halving(work: Callable[[int], T], size: int, unit: str) -> tuple[T, int]:
    """What `work(size)` gives, and the size that it took: halved as often as memory runs out.

    `work` must be repeatable. `unit` says what `size` counts. Raises `ModelError` where memory ran out at size 1.
    """
    while True:
        try:
            return work(size), size
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        # Not in the handler: the exception holds the frames, and they the tensors.
        if size <= 1:
            raise ModelError(
                f"out of memory with a single {unit} at once ({said}); set smaller max_tokens, a smaller base or "
                "method lora, or train on a machine with more memory."
            )
        size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
