"""One of several processes that train a classifier or a reranker: `torchrun ... -m stillhouse.distill FOLDER`.

`job.json` in the folder names the student and what it learns from, as `training.train` and
`rerankers.training.train_reranker` write it. The first process says each epoch's end as a line of JSON; what cannot be
trained is said in `error.json`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed

from stillhouse.distill.data import LabelledText
from stillhouse.distill.rerankers.lists import RankedList
from stillhouse.distill.rerankers.training import RerankProgress, train_reranker
from stillhouse.distill.together import ERROR_FILE, JOB_FILE
from stillhouse.distill.training import Progress, train
from stillhouse.files import write_json
from stillhouse.models.port import ModelError
from stillhouse.models.rerank_text import Lexicon
from stillhouse.tasks.rerankers import RerankerStudent
from stillhouse.tasks.students import StudentCandidate

PATIENCE = timedelta(minutes=30)  # the others wait while one of them is slower


def main(folder: Path) -> int:
    """Do the job in `folder`; 3 where it is pointless to try again."""
    job = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        _train(job)
    except (ModelError, ValueError) as error:
        write_json(folder / ERROR_FILE, {"message": str(error)})
        return 3
    finally:
        distributed.destroy_process_group()
    return 0


def _train(job: dict[str, Any]) -> None:
    settings: dict[str, Any] = {
        "on_progress": _say,
        "checkpoint_dir": Path(job["checkpoints"]),
        "seed": job["seed"],
        "threads": job["threads"],
    }
    if "labels" in job:
        texts, select, made = ([LabelledText(**one) for one in job[name] or ()] for name in ("train", "select", "made"))
        train(StudentCandidate.model_validate(job["student"]), job["labels"], texts, select, made=made, **settings)
        return
    lists, chosen = ([_list(one) for one in job[name]] for name in ("train", "select"))
    lexicon = Lexicon.read(Path(job["lexicon"]))
    train_reranker(RerankerStudent.model_validate(job["student"]), lists, chosen, lexicon=lexicon, **settings)


def _list(raw: dict[str, Any]) -> RankedList:
    teacher, relevance = (None if raw[name] is None else tuple(raw[name]) for name in ("teacher", "relevance"))
    return RankedList(raw["query"], tuple(raw["documents"]), teacher, relevance, raw["weight"])


def _say(progress: Progress | RerankProgress) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(asdict(progress)), flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
