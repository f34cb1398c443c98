"""An artefact is served only when every byte is the one that was judged."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from stillhouse.models.artefact import verify, write_manifest
from stillhouse.models.features import hashed_features
from stillhouse.models.port import ModelError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "student.json").write_text("{}")
    return tmp_path


def test_a_whole_artefact_is_accepted(folder) -> None:
    assert verify(write_manifest(folder)) == folder


def test_a_changed_byte_is_refused_by_name(folder) -> None:
    reference = write_manifest(folder)
    (folder / "model.onnx").write_bytes(b"grabh")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        verify(reference)


def test_another_artefact_than_the_one_meant_is_refused(folder) -> None:
    reference = write_manifest(folder)
    (folder / "student.json").write_text('{"other": 1}')
    write_manifest(folder)
    with pytest.raises(ModelError):
        verify(reference)


def test_features_are_stable_bounded_and_blind_to_case() -> None:
    ids = hashed_features("Where is my order", 1 << 12, 64)
    assert ids.dtype == np.int64
    assert 0 < len(ids) <= 64
    assert ids.min() >= 1
    assert ids.max() < 1 << 12
    assert np.array_equal(ids, hashed_features("where is my ORDER", 1 << 12, 64))


def test_importing_models_loads_no_heavy_library() -> None:
    code = "import stillhouse.models.worker_model, sys; print({'torch', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
