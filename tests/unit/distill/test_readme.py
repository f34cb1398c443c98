"""The Python of README.md: what needs no running profile runs, and the rest is Python that names what is there."""

from __future__ import annotations

import ast
import importlib
import re
from typing import Any

import pytest
import torch

from tests.benchmarks.meta import ROOT

BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)
ENGINE = [block for block in BLOCKS if "distill" in block]


def test_the_engine_has_an_example() -> None:
    assert len(ENGINE) == 1


@pytest.mark.parametrize("block", ENGINE)
def test_the_examples_of_the_engine_run(block) -> None:
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(compile(block, "README.md", "exec"), names)
    assert names["agreement"] > 0.9
    after = (names["lesson"].probabilities(names["student"]).argmax(dim=1) == names["lesson"].hard).float().mean()
    assert after > 0.9


@pytest.mark.parametrize("block", BLOCKS)
def test_what_an_example_imports_is_there(block) -> None:
    for statement in ast.parse(block).body:
        if isinstance(statement, ast.Import):
            for one in statement.names:
                importlib.import_module(one.name)
        elif isinstance(statement, ast.ImportFrom):
            module = importlib.import_module(statement.module or "")
            assert [one.name for one in statement.names if not hasattr(module, one.name)] == []
