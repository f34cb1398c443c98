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


def test_its_parts_are_there_without_an_import_of_their_own() -> None:
    code = """if True:
        import pkgutil
        from stillhouse import distill
        for name in ("response", "features", "relations", "schemes", "augmentation", "rerankers", "pruning"):
            part = getattr(distill, name)
            assert all(getattr(part, one.name).__doc__ for one in pkgutil.iter_modules(part.__path__)), name
        assert distill.schemes.ensembles.averaged and distill.replay.probe
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_parts_that_are_not_there_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"'stillhouse.distill.schemes' has no attribute 'ensemble'"):
        _ = distill.schemes.ensemble
