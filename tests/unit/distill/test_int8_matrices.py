"""Matrices in int8: one scale a token before feed-forward ones, and codes that no x64 machine saturates on."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stillhouse.distill.export import codes_of, quantise_matrices, scale_tokens
from stillhouse.models.student import open_session

RNG = np.random.default_rng(0)


def product(path, *shapes):
    """The graph `out_i = x @ w_i`, x [1, n, K], of matrices [K, N]."""
    weights = [RNG.normal(0, 0.1, shape).astype(np.float32) for shape in shapes]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", f"w{i}"], [f"out{i}"], name=f"m{i}") for i in range(len(shapes))],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n", shapes[0][0]])],
        [helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, [1, "n", n]) for i, (_, n) in enumerate(shapes)],
        [numpy_helper.from_array(one, f"w{i}") for i, one in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return weights


def loud():
    """Five tokens [1, 5, 64]: the first is a hundred times the others, the last is nothing."""
    x = RNG.normal(size=(1, 5, 64)).astype(np.float32)
    x[0, 0] *= 100
    x[0, 4] = 0
    return x


def test_scaling_and_scaling_back_is_the_same_product(tmp_path) -> None:
    weights = product(tmp_path / "plain.onnx", (64, 16), (64, 64), (64, 8))
    model = onnx.load(str(tmp_path / "plain.onnx"))
    scale_tokens(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node].count("ReduceMax") == 1, "one scale for all that read the same"
    square = next(node for node in model.graph.node if node.name == "m1")
    assert square.input[0] == "x", "attention is left as it is"
    onnx.save(model, str(tmp_path / "scaled.onnx"))
    x = loud()
    for said, one in zip(open_session(tmp_path / "scaled.onnx").run(None, {"x": x}), weights, strict=True):
        np.testing.assert_allclose(said, x @ one, atol=1e-4, rtol=1e-5)


def test_neighbours_never_saturate_16_bits_and_codes_are_as_fine_as_that_lets_them() -> None:
    matrix = RNG.normal(size=(65, 40)).astype(np.float32)
    matrix[:, 3] = 0
    codes, scales = codes_of(matrix)
    sizes = np.abs(codes.astype(int))
    pairs = sizes[0:64:2] + sizes[1::2]
    assert 255 * pairs.max() <= np.iinfo(np.int16).max
    assert np.delete(np.maximum(pairs.max(axis=0), sizes.max(axis=0)), 3).min() >= 126
    assert np.abs(codes * scales - matrix).max() <= scales.max() / 2 + 1e-6
    assert np.array_equal(codes[:, 3], np.zeros(65))


def test_every_matrix_of_a_quantised_graph_fits_also_a_head(tmp_path) -> None:
    weights = [RNG.normal(size=shape).astype(np.float32) for shape in ((64, 64), (7, 64))]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w0"], ["y"]), helper.make_node("Gemm", ["y", "w1"], ["out"], transB=1)],
        "headed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 7])],
        [numpy_helper.from_array(one, f"w{i}") for i, one in enumerate(weights)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(tmp_path / "a.onnx")
    )
    quantise_matrices(tmp_path / "a.onnx", tmp_path / "b.onnx")
    model = onnx.load(str(tmp_path / "b.onnx"))
    read = {node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"}
    found = [numpy_helper.to_array(one).astype(int) for one in model.graph.initializer if one.name in read]
    assert sorted(one.shape for one in found) == [(64, 7), (64, 64)]
    assert max((np.abs(one[0::2]) + np.abs(one[1::2])).max() for one in found) <= 128
    x = RNG.normal(size=(5, 64)).astype(np.float32)
    wanted = x @ weights[0] @ weights[1].T
    said = open_session(tmp_path / "b.onnx").run(None, {"x": x})[0]
    assert np.abs(said - wanted).max() < 0.03 * np.abs(wanted).max()


def test_quiet_tokens_survive_a_loud_one(tmp_path) -> None:
    wide, square = product(tmp_path / "plain.onnx", (64, 16), (64, 64))
    quantise_matrices(tmp_path / "plain.onnx", tmp_path / "int8.onnx")
    x = loud()
    by_token, by_text = open_session(tmp_path / "int8.onnx").run(None, {"x": x})

    def error(said, weights):
        wanted = (x @ weights)[0, 1:4]
        return float(np.abs(said[0, 1:4] - wanted).max() / np.abs(wanted).max())

    assert error(by_token, wide) < 0.03
    assert error(by_text, square) > 0.3, "a scale a text is what it was: quiet tokens are rounded away"
    assert np.array_equal(by_token[0, 4], np.zeros(16, np.float32)), "a token of zeros stays one"
    assert open_session(tmp_path / "int8.onnx").run(None, {"x": x[:, 1:]})[0][0, 0] == pytest.approx(by_token[0, 1])
