"""MAPIE's Learn-then-Test with its defaults: thresholds of a confidence, for one calibration set and for many draws.

Job: `arrays` (.npz with `confidence` and `agrees` [n] of the calibration part, and `pool_confidence`, `pool_agrees` [m]
that `draws` sets of `drawn` cases are drawn from with replacement), `selective` and `overall` (targets of agreement).
Result, for each of the two promises: `threshold` (null: none is valid) and `drawn` thresholds.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version

import numpy as np
from mapie.risk_control import BinaryClassificationController, BinaryClassificationRisk, precision

NEVER = BinaryClassificationRisk(
    risk_occurrence=lambda y_true, y_pred: (y_pred == 1) & (y_true == 0),
    risk_condition=lambda y_true, y_pred: np.ones_like(y_true, dtype=bool),
    higher_is_better=False,
)


def threshold(confidence: np.ndarray, agrees: np.ndarray, promise: str, target: float) -> float | None:
    """The loosest valid threshold: precision is the agreement among served; the other risk is over all cases."""
    controller = BinaryClassificationController(
        predict_function=lambda x: np.column_stack([1 - x[:, 0], x[:, 0]]),
        risk=precision if promise == "selective" else NEVER,
        target_level=target if promise == "selective" else 1 - target,
        confidence_level=0.95,
        best_predict_param_choice="recall",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        controller.calibrate(confidence[:, np.newaxis], agrees.astype(int))
    valid = np.atleast_1d(np.asarray(controller.valid_predict_params, dtype=float))
    return float(valid.min()) if valid.size else None


def main() -> None:
    """Read the job, run it, write the result."""
    job = json.load(sys.stdin)
    with np.load(job["arrays"]) as file:
        arrays = {name: file[name] for name in file.files}
    result: dict[str, object] = {"version": {"mapie": version("mapie")}}
    for promise in ("selective", "overall"):
        rng = np.random.default_rng(1)
        drawn = []
        for _ in range(job["draws"]):
            at = rng.integers(0, len(arrays["pool_agrees"]), job["drawn"])
            drawn.append(threshold(arrays["pool_confidence"][at], arrays["pool_agrees"][at], promise, job[promise]))
        one = threshold(arrays["confidence"], arrays["agrees"], promise, job[promise])
        result[promise] = {"threshold": one, "drawn": drawn}
    with open(job["result"], "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
