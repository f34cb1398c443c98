"""Every example in a docstring of the distillation engine gives what it says; every method has one, and a source."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from types import ModuleType

import pytest
import torch

import stillhouse.distill

MODULES = sorted(
    found.name.removeprefix("stillhouse.distill.")
    for found in pkgutil.walk_packages(stillhouse.distill.__path__, prefix="stillhouse.distill.")
)
# Every module of these packages is a method, each function of which is shown.
FAMILIES = (
    "response",
    "features",
    "relations",
    "objectives",
    "schemes",
    "augmentation",
    "rerankers",
    "embeddings",
    "pruning",
)
# Methods that stand alone: students, what they see and when, how sure they are.
ALONE = (
    "hashed_ngrams",
    "static_embeddings",
    "text_cnn",
    "cut_encoder",
    "width_pruning",
    "joint",
    "assistant",
    "training",
    "fitting",
    "schedules",
    "curriculum",
    "selection",
    "replay",
    "quantisation_aware",
    "calibration",
    "confidence",
    "sweep",
    "causal_lm.on_policy",
    "causal_lm.few_shot",
    "causal_lm.packing",
    "causal_lm.prompt",
    "compression.rounding",
)
# What several methods share is no method of its own, and has no paper.
SHARED = (
    "recipe",
    "features.capture",
    "relations.pairs",
    "objectives.divergence",
    "objectives.tokens",
    "schemes.lesson",
    "rerankers.objective",
    "rerankers.scores",
    "rerankers.export",
    "pruning.llama",
    "pruning.prune",
)
OF_FAMILIES = [name for name in MODULES if name.partition(".")[0] in FAMILIES and "." in name]
METHODS = [name for name in (*OF_FAMILIES, *ALONE) if name not in SHARED]
# Shown by what stands beside them; to run them takes files or minutes.
NOT_SHOWN = {
    "relations.pairs": {"require_same_texts"},
    "rerankers.export": {"export_reranker"},
    "embeddings.training": {"export_encoder"},
}
SOURCE = re.compile(r"\b\d{4}\.\d{4,5}\b|\b(19|20)\d\d\b")  # an arXiv number, or a year


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"stillhouse.distill.{name}")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name) -> None:
    module = module_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_every_family_has_methods_and_what_is_named_is_there() -> None:
    assert [family for family in FAMILIES if not any(name.startswith(f"{family}.") for name in METHODS)] == []
    assert [name for name in (*ALONE, *SHARED, *NOT_SHOWN) if name not in MODULES] == []


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_an_example(name) -> None:
    assert shown_in(module_of(name)), f"{name} has no example"


@pytest.mark.parametrize("name", OF_FAMILIES)
def test_every_function_of_a_family_is_shown(name) -> None:
    module = module_of(name)
    public = {
        of
        for of, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and not of.startswith("_")
    }
    shown = shown_in(module)
    assert {of for of in public if not re.search(rf"\b{of}\b", shown)} == NOT_SHOWN.get(name, set())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_its_source(name) -> None:
    module = module_of(name)
    own = [value for _, value in inspect.getmembers(module) if getattr(value, "__module__", "") == module.__name__]
    docs = "".join(inspect.getdoc(value) or "" for value in (module, *own))
    assert SOURCE.search(docs), f"{name} names no paper"


def shown_in(module: ModuleType) -> str:
    """The code of all examples of a module."""
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    return "".join(example.source for test in found for example in test.examples)
