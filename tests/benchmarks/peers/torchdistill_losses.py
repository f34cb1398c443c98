"""torchdistill's losses, asked line by line.

Each line of standard input is `{"loss", "logits", "teacher", "labels", "student_vectors", "teacher_vectors", "times"}`
with tensors as lists; each line of standard output is `[value, gradient, CPU seconds of one turn]`, the gradient in
logits or vectors, whichever the loss is of. A first turn is not counted. A line `"version"` gets the versions.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from torchdistill.losses.mid_level import DISTLoss, KDLoss, LogitStdKDLoss, RKDLoss

PATHS = ("out", "output", "out", "output")
LOSSES: dict[str, Any] = {
    "soft_targets": KDLoss(*PATHS, temperature=2.0, alpha=0.2),
    "standardised_logits": LogitStdKDLoss(*PATHS, temperature=2.0, alpha=0.1, beta=9.0),
    "dist": DISTLoss(*PATHS, beta=2.0, gamma=2.0),
    "rkd": RKDLoss("vectors", "vectors", dist_factor=25.0, angle_factor=50.0, reduction="mean"),
}


def main() -> None:
    """Answer line by line until the input ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        if job == "version":
            print(
                json.dumps({"torchdistill": version("torchdistill"), "torchdistill: torch": version("torch")}),
                flush=True,
            )
            continue
        loss = LOSSES[job["loss"]]
        of, theirs = ("vectors", "teacher_vectors") if job["loss"] == "rkd" else ("out", "teacher")
        own = torch.tensor(job["student_vectors" if of == "vectors" else "logits"], requires_grad=True)
        teacher = {of: {"output": torch.tensor(job[theirs])}}
        labels = torch.tensor(job["labels"])
        spent = 0.0
        for turn in range(job["times"] + 1):
            own.grad = None
            before = time.process_time()
            value = loss({of: {"output": own}}, teacher, labels)
            value.backward()
            spent += time.process_time() - before if turn else 0.0
        print(json.dumps([value.item(), own.grad.tolist(), spent / job["times"]]), flush=True)


if __name__ == "__main__":
    main()
