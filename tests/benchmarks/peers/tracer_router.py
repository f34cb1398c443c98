"""TRACER: fits its router on embeddings of everything but the test texts, and answers those.

Job: `arrays` (.npz with `learn` [n, width] and `test` [m, width]), `learn` and `test` (labels), `parts` (how many of
the learning texts are for training, choosing and calibrating, in their order; null: TRACER splits them itself),
`target`, `skip` (names of candidate models left out), `draws` and `drawn` (so many calibration sets of so many cases,
with replacement from test texts). Result: `handled` and `label` of each test text; `broken` (shares of draws whose
threshold, chosen by TRACER's own rule, has a true agreement below the target); `models` tried and deployed.
"""

from __future__ import annotations

import json
import sys
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tracer.api import fit, load_router
from tracer.config import FitConfig
from tracer.fit import pipeline
from tracer.fit.surrogate import _candidates


def split_as(parts: list[int]) -> Any:
    """A split in the place of TRACER's own, which would draw its calibration cases from the training texts too."""

    def split(vectors: np.ndarray, labels: np.ndarray, seed: int = 42) -> dict[str, Any]:
        cuts = np.cumsum(parts)[:-1]
        said = zip(("train", "val", "cal"), np.split(vectors, cuts), np.split(labels, cuts), strict=True)
        found = {f"{what}_{name}": value for name, x, y in said for what, value in (("X", x), ("y", y))}
        return found | {"n_fit": len(vectors)}

    return split


def redraw(stages: list[dict[str, Any]], vectors: np.ndarray, truth: np.ndarray, job: dict[str, Any]) -> float | None:
    """Share of redrawn calibrations that break the promise over all test texts; thresholds by TRACER's own rule."""
    rng = np.random.default_rng(1)
    said = [pipeline.apply_stage(stage, vectors) for stage in stages]
    broken = 0
    for _ in range(job["draws"]):
        drawn = rng.integers(0, len(truth), job["drawn"])
        left, wrong, served = np.ones(len(truth), dtype=bool), 0, 0
        for stage, (labels, _, scores) in zip(stages, said, strict=True):
            at = drawn[left[drawn]]
            if stage.get("accept_all"):
                right = int((labels[at] == truth[at]).sum())
                accept = np.full(len(truth), pipeline._cp_lower(right, len(at), 0.1) >= job["target"])
            else:
                found = pipeline._calibrate_threshold(scores[at], labels[at], truth[at], job["target"])
                accept = np.zeros(len(truth), dtype=bool) if found is None else scores >= found["threshold"]
            taken = left & accept
            served += int(taken.sum())
            wrong += int((labels[taken] != truth[taken]).sum())
            left &= ~accept
        broken += served > 0 and wrong > (1 - job["target"]) * served
    return broken / job["draws"]


def main() -> None:
    """Read the job, run it, write the result."""
    job = json.load(sys.stdin)
    folder = Path(job["scratch"])
    with np.load(job["arrays"]) as arrays:
        learn, test = arrays["learn"], arrays["test"]
    traces = folder / "traces.jsonl"
    with traces.open("w", encoding="utf-8") as file:
        for label in job["learn"]:
            file.write(json.dumps({"id": uuid.uuid4().hex, "input": "-", "teacher": label}) + "\n")
    if job["parts"] is not None:
        pipeline._split_buffer = split_as(job["parts"])
    config = FitConfig(
        target_teacher_agreement=job["target"],
        frontier_targets=(job["target"],),
        skip_candidates=tuple(job["skip"]),
        max_fit_labels=len(learn),
        verbose=False,
    )
    fitted = fit(traces, folder / "router", embeddings=learn, config=config)
    result: dict[str, Any] = {
        "version": {"tracer-llm": version("tracer-llm")},
        "models": sorted(_candidates(len(learn), skip=job["skip"])),
        "method": fitted.manifest.selected_method,
        "coverage_claimed": fitted.manifest.coverage_cal,
    }
    if fitted.manifest.selected_method is None:
        result |= {"handled": [False] * len(test), "label": [None] * len(test), "broken": 0.0}
    else:
        router = load_router(folder / "router")
        said = router.predict_batch(test)
        place = {label: i for i, label in enumerate(router._label_space)}
        truth = np.array([place.get(label, -1) for label in job["test"]])
        result |= {
            "handled": [bool(value) for value in said["handled"]],
            "label": said["labels"],
            "broken": redraw(router._stages, test, truth, job),
        }
    with open(job["result"], "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
