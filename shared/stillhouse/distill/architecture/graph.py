"""Where the time of a student's graph goes, from ONNX Runtime's own profile of the graph that serves."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from stillhouse.distill.architecture.analyze import Analysis, Part, Pass, bottleneck
from stillhouse.models.features import MODEL_FILE, StudentSpec

KINDS: Final = {
    "Gather": "embeddings",
    "GatherElements": "embeddings",
    "Softmax": "attention",
    "LayerNormalization": "norm",
    "SkipLayerNormalization": "norm",
    "DynamicQuantizeLinear": "quantising",
}


def analyze_graph(folder: Path, *, length: int = 32, repeats: int = 20) -> Analysis:
    """Profile the artefact in `folder` on one text of `length` tokens or features. Raises `ModelError`.

    Modules are kinds of operations here. Products of two computed matrices are `attention`, of one with weights
    `linear`.
    """
    import onnx

    spec = StudentSpec.read(folder)
    graph = onnx.load(str(folder / MODEL_FILE)).graph
    weights = {one.name: int(np.prod(one.dims)) for one in graph.initializer}
    bytes_of = {one.name: len(one.raw_data) for one in graph.initializer}
    inputs = {one.name: np.ones((1, length), dtype=np.int64) for one in graph.input}
    events, took = _profile(folder / MODEL_FILE, inputs, repeats)
    runs: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for event in events:
        args = event["args"]
        row = runs[(str(args["op_name"]), _kind(args))]
        row["ms"] += event["dur"] / 1e3 / repeats
        row["bytes"] = max(row["bytes"], 0.0)
        row["flops"] += _flops(args) / repeats
        row["parameter_bytes"] += float(args.get("parameter_size", 0)) / repeats
        row["output_bytes"] += float(args.get("output_size", 0)) / repeats
    parts = [
        Part(op, kind, 0, round(row["parameter_bytes"]), row["flops"] / length, round(row["output_bytes"]), row["ms"])
        for (op, kind), row in sorted(runs.items(), key=lambda item: -item[1]["ms"])
    ]
    flops, ms = sum(part.flops_per_token for part in parts) or 1.0, sum(part.ms for part in parts) or 1.0
    share = {
        kind: {
            "flops": sum(part.flops_per_token for part in parts if part.kind == kind) / flops,
            "time": sum(part.ms for part in parts if part.kind == kind) / ms,
        }
        for kind in sorted({part.kind for part in parts})
    }
    passes = [
        Pass(
            1,
            length,
            round(sum(part.flops_per_token for part in parts) * length),
            sum(part.activation_bytes for part in parts),
            took,
        )
    ]
    return Analysis(
        name=spec.student_id or folder.name,
        precision=f"{spec.architecture}, as ONNX Runtime serves it",
        layers=0,
        parameters=sum(weights.values()),
        bytes=sum(bytes_of.values()),
        parts=parts,
        passes=passes,
        share=share,
        bottleneck=bottleneck(parts, share, passes),
    )


def _profile(path: Path, inputs: dict[str, Any], repeats: int) -> tuple[list[dict[str, Any]], float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as scratch:
        plain = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        times = []
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            plain.run(None, inputs)
            times.append((time.perf_counter() - begun) * 1e3)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(repeats):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [one for one in events if one.get("cat") == "Node" and one["name"].endswith("_kernel_time")]
    return nodes, min(times[1:])


def _shapes(args: dict[str, Any], which: str) -> list[list[int]]:
    return [next(iter(one.values())) for one in args.get(which, []) if one]


def _is_product(op: str) -> bool:
    return "MatMul" in op or "Gemm" in op


def _kind(args: dict[str, Any]) -> str:
    op = str(args["op_name"])
    if _is_product(op):
        return "linear" if int(args.get("parameter_size", 0)) else "attention"
    return KINDS.get(op, "other")


def _flops(args: dict[str, Any]) -> float:
    """2 n k m of a matrix product, from the shapes that it ran with."""
    found, given = _shapes(args, "output_type_shape"), _shapes(args, "input_type_shape")
    if not _is_product(str(args["op_name"])) or not found or not given:
        return 0.0
    return 2.0 * float(np.prod(found[0])) * given[0][-1]
