"""Fine-tuning as a program, for several processes: `torchrun --nproc-per-node 2 -m stillhouse.distill.causal_lm JOB`.

JOB is a folder. Read are `job.json` (`student`: the keys of a `[[student]]` table; `base` and, where it has one,
`teacher`: folders) and `train.jsonl` and `select.jsonl` (`input`, `output`, and where they differ `input_type` and
`weight`). Left are `merged`, a checkpoint of safetensors, and `tuned.json` with its figures, or `error.json`. The first
process says each part's progress as a line of JSON. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from stillhouse.distill.causal_lm.saving import read_texts, save
from stillhouse.distill.causal_lm.sft import Progress, tune
from stillhouse.files import write_json
from stillhouse.models.port import ModelError
from stillhouse.tasks.students import LanguageModel


def main(folder: Path) -> int:
    """Do the job in `folder`; 3 where it is pointless to try again, with the reason in `error.json`."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    try:
        tuned = tune(
            LanguageModel.model_validate(job["student"]),
            Path(job["base"]),
            read_texts(folder / "train.jsonl"),
            read_texts(folder / "select.jsonl"),
            on_progress=_say,
            checkpoint_dir=checkpoints,
            threads=int(job.get("threads", os.environ.get("OMP_NUM_THREADS", "1"))),
            teacher=Path(job["teacher"]) if job.get("teacher") else None,
        )
    except (ModelError, ValueError) as error:
        write_json(folder / "error.json", {"message": str(error)})
        return 3
    if os.environ.get("RANK", "0") == "0":
        save(tuned, folder)
    return 0


def _say(part: Progress) -> None:
    print(json.dumps(asdict(part)), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
