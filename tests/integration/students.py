"""A student artefact small enough to make in each test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stillhouse.events import ArtefactRef
from stillhouse.models.artefact import write_manifest
from stillhouse.models.features import StudentSpec

LABELS = ("order", "refund", "other")
BUCKETS = 1 << 10


def write_student(
    parent: Path, student_id: str = "tiny-1", *, temperature: float = 1.0, seed: int = 0, labels=LABELS
) -> ArtefactRef:
    """A hashed-n-gram student of one embedding table (mean of its features' rows)."""
    folder = parent / student_id
    folder.mkdir()
    table = np.random.default_rng(seed).normal(size=(BUCKETS, len(labels))).astype(np.float32)
    table[0] = 0  # padding
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "features"], ["rows"]),
            helper.make_node("ReduceMean", ["rows", "axes"], ["logits"], keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.INT64, ["batch", "n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(labels)])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, str(folder / "model.onnx"))
    StudentSpec(
        student_id, "hashed_ngrams", labels, "hashed_ngrams", temperature, max_length=64, buckets=BUCKETS
    ).write(folder)
    return write_manifest(folder)
