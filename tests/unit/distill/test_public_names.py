"""`from stillhouse import distill`: its names are there, and cost nothing before they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stillhouse import distill


@pytest.mark.parametrize("name", distill.__all__)
def test_a_name_is_there(name) -> None:
    assert getattr(distill, name).__name__ == name


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'soft_targets_los'"):
        _ = distill.soft_targets_los


def test_importing_it_imports_no_torch() -> None:
    code = "import sys; from stillhouse import distill; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
