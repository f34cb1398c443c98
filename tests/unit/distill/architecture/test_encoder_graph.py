"""The graph that is timed has the weights that are counted, and looks at real tokens alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from stillhouse.distill.architecture.cost_model import measure
from stillhouse.distill.architecture.counting import EncoderShape, parameters, weight_bytes
from stillhouse.distill.architecture.encoder_graph import latency_ms, write
from stillhouse.models.student import open_session

SHAPE = EncoderShape(2, 32, 64, 4, vocabulary=5000, positions=64, labels=3, attention=16)


def test_weights_are_those_counted(tmp_path) -> None:
    write(SHAPE, tmp_path / "plain.onnx", int8=False)
    graph = onnx.load(str(tmp_path / "plain.onnx")).graph
    floats = sum(int(np.prod(one.dims)) for one in graph.initializer if one.data_type == 1 and one.dims)
    assert floats == parameters(SHAPE) - 2 * SHAPE.width, "the two segments are left out"
    write(SHAPE, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size == pytest.approx(weight_bytes(SHAPE), rel=0.1)


def test_padding_changes_nothing(tmp_path) -> None:
    write(SHAPE, tmp_path / "m.onnx", int8=False)
    session = open_session(tmp_path / "m.onnx")
    ids = np.arange(1, 7, dtype=np.int64)[None]
    padded = np.concatenate([ids, np.zeros((1, 5), np.int64)], axis=1)
    mask = (padded > 0).astype(np.int64)
    [[whole]] = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    [[filled]] = session.run(["logits"], {"input_ids": padded, "attention_mask": mask})
    assert whole.shape == (3,)
    np.testing.assert_allclose(filled, whole, atol=1e-5)


def test_a_shape_is_timed_at_each_length(tmp_path) -> None:
    found = measure(SHAPE, (2, 60), repeats=3)
    assert [(shape, length) for shape, length, _ in found] == [(SHAPE, 2), (SHAPE, 60)]
    assert all(ms > 0 for _, _, ms in found)
    write(SHAPE, tmp_path / "m.onnx")
    assert latency_ms(tmp_path / "m.onnx", 4, repeats=2) > 0
