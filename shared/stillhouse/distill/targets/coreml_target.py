"""Core ML (iOS): coremltools converts on Linux too; only Apple's systems run what it writes.

Runs in its own environment, by `job.py`.
"""

from __future__ import annotations

from typing import Any


def version() -> str:
    """The exporter and its version."""
    from importlib.metadata import version as of

    return f"coremltools {of('coremltools')}"


def convert(job: dict[str, Any]) -> None:
    """Write an .mlpackage for iOS 17; int8: weights linear and symmetric by channel, computed in float16."""
    import coremltools as ct
    import torch

    program = torch.export.load(job["program"]).run_decompositions({})
    int8 = job["precision"] == "int8"
    precision = ct.precision.FLOAT16 if int8 else ct.precision.FLOAT32
    model = ct.convert(program, minimum_deployment_target=ct.target.iOS17, compute_precision=precision)
    if int8:
        how = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric")
        model = ct.optimize.coreml.linear_quantize_weights(
            model, config=ct.optimize.coreml.OptimizationConfig(global_config=how)
        )
    model.save(job["out"])
