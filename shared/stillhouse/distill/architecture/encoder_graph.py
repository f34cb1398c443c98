"""An encoder of any shape as an ONNX graph with random weights: what it costs can be measured before it is trained.

The graph is the one that `distill.export` writes: dynamic int8 matrices one scale a column, tables of vectors as int8
rows, float32 otherwise.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from stillhouse.distill.architecture.counting import EncoderShape
from stillhouse.distill.architecture.footprint import memory_of
from stillhouse.distill.export import quantise_matrices
from stillhouse.models.student import open_session

OPSET: Final = 20


class Cost(NamedTuple):
    """What a graph took here: milliseconds of one text, and peak bytes where they could be measured."""

    ms: float
    memory_bytes: int | None = None


class _Graph:
    """Nodes and weights as they are added."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = np.random.default_rng(seed)

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{name}", **attributes))
        return name

    def weight(self, *shape: int) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        values = self._random.normal(0, 0.05, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(self, values: Any) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def linear(self, x: str, given: int, out: int) -> str:
        return self.add("Add", [self.add("MatMul", [x, self.weight(given, out)]), self.weight(out)])

    def norm(self, x: str, width: int) -> str:
        return self.add("LayerNormalization", [x, self.weight(width), self.weight(width)], axis=-1)


def write(shape: EncoderShape, path: Path, *, seed: int = 0, int8: bool = True) -> None:
    """Write the graph of `shape` to `path`: inputs `input_ids` and `attention_mask` int64 [1, n], output `logits`."""
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph(seed)
    x = _embeddings(graph, shape, int8)
    mask = graph.add("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    kept = graph.add("Unsqueeze", [mask, graph.constant(np.array([1, 2]))])
    bias = graph.add(
        "Mul",
        [
            graph.add("Sub", [graph.constant(np.array(1.0, np.float32)), kept]),
            graph.constant(np.array(-1e9, np.float32)),
        ],
    )
    for _ in range(shape.layers):
        x = _layer(graph, shape, x, bias)
    weights = graph.add("Unsqueeze", [mask, graph.constant(np.array([-1]))])
    axis = graph.constant(np.array([1]))
    total = graph.add("ReduceSum", [graph.add("Mul", [x, weights]), axis], keepdims=0)
    pooled = graph.add("Div", [total, graph.add("ReduceSum", [weights, axis], keepdims=0)])
    logits = graph.linear(pooled, shape.width, shape.labels)
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    ids = [helper.make_tensor_value_info(one, TensorProto.INT64, [1, "n"]) for one in ("input_ids", "attention_mask")]
    said = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, shape.labels])
    made = helper.make_graph(graph.nodes, "encoder", ids, [said], graph.weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    if not int8:
        onnx.save(model, str(path))
        return
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        onnx.save(model, str(plain))
        quantise_matrices(plain, path)


def cost_of(shape: EncoderShape, length: int, *, repeats: int = 30) -> Cost:
    """Build the graph of `shape` and measure it: milliseconds of one text of `length` tokens, and peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        write(shape, path)
        return Cost(latency_ms(path, length, repeats=repeats), memory_of(path, length))


def latency_ms(path: Path, length: int, *, repeats: int = 30) -> float:
    """Milliseconds of one text of `length` tokens or features on one thread: the lowest decile, since other load only
    adds. Any graph of ids, with a mask or without.
    """
    session = open_session(path)
    ids = np.arange(length, dtype=np.int64)[None] % 999 + 1
    given = {one.name: np.ones_like(ids) if one.name == "attention_mask" else ids for one in session.get_inputs()}
    took = []
    for _ in range(repeats + 3):
        begun = time.perf_counter()
        session.run(None, given)
        took.append((time.perf_counter() - begun) * 1e3)
    return float(np.percentile(took[3:], 10))


def _embeddings(graph: _Graph, shape: EncoderShape, int8: bool) -> str:
    from onnx import TensorProto

    if int8:
        codes = np.random.default_rng(1).integers(-127, 128, (shape.vocabulary, shape.width)).astype(np.int8)
        rows = graph.add("Gather", [graph.constant(codes), "input_ids"])
        scales = graph.add("Gather", [graph.weight(shape.vocabulary, 1), "input_ids"])
        words = graph.add("Mul", [graph.add("Cast", [rows], to=TensorProto.FLOAT), scales])
    else:
        words = graph.add("Gather", [graph.weight(shape.vocabulary, shape.width), "input_ids"])
    length = graph.add("Gather", [graph.add("Shape", ["input_ids"]), graph.constant(np.array(1))])
    places = graph.add("Range", [graph.constant(np.array(0)), length, graph.constant(np.array(1))])
    at = graph.add("Gather", [graph.weight(shape.positions, shape.width), places])
    return graph.norm(graph.add("Add", [words, at]), shape.width)


def _layer(graph: _Graph, shape: EncoderShape, x: str, bias: str) -> str:
    size = shape.inner // shape.heads
    split = graph.constant(np.array([0, 0, shape.heads, size]))

    def heads(order: list[int]) -> str:
        linear = graph.linear(x, shape.width, shape.inner)
        return graph.add("Transpose", [graph.add("Reshape", [linear, split])], perm=order)

    query, key, value = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3])
    scale = graph.constant(np.array(size**-0.5, np.float32))
    scores = graph.add("Add", [graph.add("Mul", [graph.add("MatMul", [query, key]), scale]), bias])
    mixed = graph.add("MatMul", [graph.add("Softmax", [scores], axis=-1), value])
    joined = graph.add("Transpose", [mixed], perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", [joined, graph.constant(np.array([0, 0, shape.inner]))])
    x = graph.norm(graph.add("Add", [graph.linear(joined, shape.inner, shape.width), x]), shape.width)
    inner = graph.add("Gelu", [graph.linear(x, shape.width, shape.ffn)])
    return graph.norm(graph.add("Add", [graph.linear(inner, shape.ffn, shape.width), x]), shape.width)
