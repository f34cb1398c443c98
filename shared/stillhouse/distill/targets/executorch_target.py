"""ExecuTorch (embedded): lowered to XNNPACK, any length up to the longest. Runs in its own environment, by `job.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def version() -> str:
    """The exporter and its version."""
    from importlib.metadata import version as of

    return f"executorch {of('executorch')}"


def convert(job: dict[str, Any]) -> None:
    """Write a .pte; int8: weights of matrices by channel, activations as they come. Tables of vectors stay float32."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.load(job["program"])
    if job["precision"] == "int8":
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantiser = XNNPACKQuantizer().set_global(
            get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        )
        prepared = prepare_pt2e(program.module(), quantiser)
        example = tuple(torch.ones(1, 16, dtype=torch.long) for _ in job["names"])
        prepared(*example)
        dims = {most: torch.export.Dim(f"length_{most}", min=2, max=most) for most in set(job["longest"].values())}
        program = torch.export.export(
            convert_pt2e(prepared),
            example,
            dynamic_shapes=tuple({1: dims[job["longest"][name]]} for name in job["names"]),
        )
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    with open(job["out"], "wb") as file:
        file.write(lowered.buffer)


def load(path: str) -> Callable[[Sequence[Any]], Any]:
    """A function of inputs int64 [1, n] that gives logits [labels]."""
    import torch
    from executorch.runtime import Runtime

    torch.set_num_threads(1)
    loaded = Runtime.get().load_program(path)
    method = loaded.load_method("forward")

    def answer(inputs: Sequence[Any], _program: Any = loaded) -> Any:
        return method.execute([torch.from_numpy(one) for one in inputs])[0][0].numpy().copy()

    return answer
