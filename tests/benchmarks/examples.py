"""`examples`: the two programs of `deploy/examples`, run as a reader would run them.

`five_to_one`: five students of two encoder layers, each trained on another draw of a third of clinc150's labelled
texts, answer together; one student of the same kind learns their answers, on a third of the texts without labels too;
the last third judges. `bert_large_to_mobile`: an encoder of BERT-large's shape answers, one of TinyBERT-4's shape
learns that and is exported as int8. **The weights of that teacher are random**, since none can be had here: its sizes,
operations and times are real, its answers mean nothing, and the agreement with it is of a small model with a random
function, beside how often that function gives its commonest answer. Milliseconds are medians of one text at a time on
one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.models.port import ModelError
from tests.benchmarks import meta
from tests.benchmarks.data import load, shared
from tests.benchmarks.report import percent, table

PROGRAMS = meta.ROOT / "deploy" / "examples"
ROWS = 3000
SEEDS = (0, 1, 2)


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    found = load(data or shared("clinc150"))
    rows = [*found.train, *found.test]
    places = np.random.default_rng(0).permutation(len(rows))[:ROWS]
    seeds = SEEDS[:1] if quick else SEEDS
    with tempfile.TemporaryDirectory() as work:
        texts = Path(work) / "texts.jsonl"
        lines = (json.dumps({"text": rows[i].text, "label": rows[i].label}) for i in places)
        texts.write_text("\n".join(lines), encoding="utf-8")
        small = ["--small"] if quick else []
        five = [_ran("five_to_one", "--data", str(texts), "--seed", str(seed), *small) for seed in seeds]
        large = _ran("bert_large_to_mobile", *small)
    result: dict[str, Any] = {"five_to_one": five, "bert_large_to_mobile": large}
    result["meta"] = meta.finish(
        begun, repeats=len(seeds), quick=quick, data=found.name, packages=("onnxruntime", "torch", "numpy")
    )
    result["meta"]["texts"] = len(places)
    return result


def show(result: dict[str, Any]) -> str:
    """The tables."""
    five = result["five_to_one"]
    of = {
        "each of the five, mean": [float(np.mean(one["accuracy_of_each"])) for one in five],
        "five, averaged": [one["accuracy_of_five"]["averaged"] for one in five],
        "five, by confidence": [one["accuracy_of_five"]["by_confidence"] for one in five],
        "one that learnt from the five": [one["accuracy_of_one"] for one in five],
    }
    cost = {"five, averaged": "five", "five, by confidence": "five", "one that learnt from the five": "one"}
    rows = [
        [
            name,
            _spread(shares),
            *(_mean(five, f"{key}_of_{cost[name]}") if name in cost else None for key in ("mb", "ms")),
        ]
        for name, shares in of.items()
    ]
    agree = [one["agreement_of_one_with_five"] for one in five]
    large = result["bert_large_to_mobile"]
    teacher, student = large["teacher"], large["student"]
    sizes = [
        [
            "teacher, BERT-large's shape, random weights",
            teacher["parameters"] / 1e6,
            teacher["mb_fp32"],
            teacher["mb_int8"],
            teacher["mflop_of_32_tokens"],
            teacher["torch_ms"],
            None,
        ],
        [
            "student, TinyBERT-4's shape",
            student["parameters"] / 1e6,
            None,
            student["mb_int8_file"],
            student["mflop_of_32_tokens"],
            student["torch_ms"],
            student["int8_ms"],
        ],
    ]
    return "\n\n".join(
        [
            table(["five_to_one", "accuracy, and over seeds", "MB", "ms"], rows),
            f"The one agrees with its teacher on {_spread(agree)} of {five[0]['judged']:,} texts that judge.",
            table(
                ["bert_large_to_mobile", "million weights", "MB fp32", "MB int8", "MFLOP", "torch ms", "int8 ms"], sizes
            ),
            f"The student gives the random teacher's answer to {percent(large['agreement_with_random_teacher'])} of "
            f"{large['held_texts']} held-out texts, whose commonest answer is that of "
            f"{percent(large['commonest_answer_of_teacher'])}; its int8 graph answers as the trained module to "
            f"{percent(student['int8_agreement_with_torch'])}. LiteRT: {_litert(large['litert'])}.",
        ]
    )


def _litert(said: Any) -> str:
    if isinstance(said, str):
        return said
    return f"{said['mb']:.1f} MB, as torch on {percent(said['agreement_with_torch'])}, {said['ms_here']:.2f} ms here"


def _spread(shares: list[float]) -> str:
    return f"{percent(float(np.mean(shares)))} ({percent(min(shares))} to {percent(max(shares))})"


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([one[key] for one in runs]))


def _ran(name: str, *arguments: str) -> Any:
    """What a program prints. Raises `ModelError` with the end of its complaint."""
    print(f"{name} {' '.join(arguments)} ...", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode != 0:
        raise ModelError(f"{name} ended with {done.returncode}: {done.stderr[-1000:]}")
    return json.loads(done.stdout)
