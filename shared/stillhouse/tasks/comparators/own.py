"""A function that the user names."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from stillhouse.tasks.comparators.settings import Own


def own_score(settings: Own) -> Callable[[str, str], float]:
    """The function. ValueError, in one sentence, where it cannot be imported; and where it gives no share."""
    module, _, name = settings.function.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"comparator {settings.function} cannot be imported ({error})") from None

    def score(student: str, teacher: str) -> float:
        value = float(function(student, teacher))
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"comparator {settings.function} gave {value}; give True, False or a number from 0 to 1")
        return value

    return score
