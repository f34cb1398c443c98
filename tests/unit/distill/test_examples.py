"""Every example in a docstring of the distillation engine gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import stillhouse.distill

MODULES = sorted(
    found.name for found in pkgutil.walk_packages(stillhouse.distill.__path__, prefix="stillhouse.distill.")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name) -> None:
    module = importlib.import_module(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("family", ["response", "features", "relations"])
def test_every_method_has_an_example(family) -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in MODULES:
        if name.startswith(f"stillhouse.distill.{family}."):
            module = importlib.import_module(name)
            assert name.endswith("pairs") or any(test.examples for test in finder.find(module)), name
