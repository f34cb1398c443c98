"""LiteRT (Android): litert-torch converts, AI Edge Quantizer makes int8, the LiteRT interpreter runs it with XNNPACK.

Shapes are fixed, so texts are padded to one length. Inputs are int32. Runs in its own environment, by `job.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any


def version() -> str:
    """The exporter and its version."""
    from importlib.metadata import version as of

    return f"litert-torch {of('litert-torch')}, ai-edge-litert {of('ai-edge-litert')}"


def convert(job: dict[str, Any]) -> None:
    """Write a .tflite; int8: weights by channel, activations as they come (dynamic range)."""
    import litert_torch
    import torch

    module = torch.export.load(job["program"]).module()
    _index_integers(module)
    example = tuple(torch.ones(1, int(job["lengths"][name]), dtype=torch.long) for name in job["names"])
    plain = job["out"] + ".fp32" if job["precision"] == "int8" else job["out"]
    litert_torch.convert(module, example).export(plain)
    if job["precision"] == "int8":
        from ai_edge_quantizer import quantizer, recipe

        quantiser = quantizer.Quantizer(plain)
        quantiser.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        quantiser.quantize().export_model(job["out"], overwrite=True)
        os.unlink(plain)


def _index_integers(module: Any) -> None:
    """Look rows up in tables of integers by indexing: LiteRT's embedding lookup takes tables of floats alone."""
    import torch

    for node in list(module.graph.nodes):
        if node.target is not torch.ops.aten.embedding.default or node.args[0].meta["val"].dtype.is_floating_point:
            continue
        with module.graph.inserting_before(node):
            rows = module.graph.call_function(torch.ops.aten.index.Tensor, (node.args[0], [node.args[1]]))
        rows.meta = dict(node.meta)
        node.replace_all_uses_with(rows)
        module.graph.erase_node(node)
    module.recompile()


def load(path: str) -> Callable[[Sequence[Any]], Any]:
    """A function of inputs int64 [1, n] that gives logits [labels]."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    runner = interpreter.get_signature_runner("serving_default")

    def answer(inputs: Sequence[Any]) -> Any:
        said = runner(**{f"args_{i}": one.astype(np.int32) for i, one in enumerate(inputs)})
        return next(said[name] for name in ("output_0", "output_0_output", *said) if name in said)[0]

    return answer
