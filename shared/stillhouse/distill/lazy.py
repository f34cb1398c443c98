"""Modules of a package that are imported when they are first named: `distill.schemes.ensembles` needs no import.

>>> from stillhouse import distill
>>> distill.schemes.ensembles.averaged.__name__
'averaged'
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType


def modules_of(package: str) -> Callable[[str], ModuleType]:
    """The `__getattr__` of `package` (PEP 562): gives its module of a name. AttributeError where there is none."""

    def fetch(name: str) -> ModuleType:
        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    return fetch
