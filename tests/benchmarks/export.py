"""`export`: one trained student on each target, beside the trained torch module.

A student of three layers of the encoder learns what the teacher of `student` answers to clinc150. Each export answers
1,000 test texts, one at a time on one thread, and is compared with torch: the same label, and the largest difference of
a logit. LiteRT has fixed shapes, so its texts are padded to 64 tokens; the others take each text as long as it is. vLLM
is its build for CPUs, in float32 and without compiling, and gets the texts themselves: its times say nothing of a GPU.
`memory` is what loading the model and answering added to the process. Core ML is converted and not run: only Apple's
systems can. What else could not be verified is in the result file, with the way to do it on a device.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.distill.export import export
from stillhouse.distill.targets.exporting import Precision, Target, export_for
from stillhouse.distill.targets.program import load_program, save_program
from stillhouse.distill.training import train
from stillhouse.models.features import TOKENIZER_FILE, Featuriser, StudentSpec
from stillhouse.models.features import prepare as prepared
from stillhouse.models.port import ModelError
from tests.benchmarks import meta
from tests.benchmarks.peers import HOME
from tests.benchmarks.population import CHOICES, Setting, prepare
from tests.benchmarks.report import percent, table

EXPORTS: tuple[tuple[Target, Precision], ...] = (
    ("onnx", "int8"),
    ("web", "int8"),
    ("litert", "int8"),
    ("litert", "fp32"),
    ("executorch", "int8"),
    ("executorch", "fp32"),
    ("coreml", "int8"),
    ("coreml", "fp32"),
    ("vllm", "fp32"),
)
COUNT = 1000
STUDENT = "stillhouse_cut3"
HEADINGS = ("system", "MB", "agrees with torch", "largest difference", "p50 ms", "p95 ms", "memory MB", "run here")


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    setting = prepare(quick, data)
    texts = [row.text for row in setting.test]
    places = np.random.default_rng(0).permutation(len(texts))[: 200 if quick else COUNT]
    texts = [texts[i] for i in places]
    artefact = student(setting)
    program, exports = artefact.with_suffix(".pt2"), artefact.parent / "exports"
    result: dict[str, Any] = {"torch": _torch(artefact, program, texts)}
    failed: dict[str, str] = {}
    for target, precision in EXPORTS:
        name = f"stillhouse_{target}" + ("" if target in ("onnx", "web") else f"_{precision}")
        print(f"{name} ...", file=sys.stderr)
        try:
            report = export_for(target, artefact, texts, exports, precision=precision, program=program)
        except ModelError as error:
            failed[name] = str(error)
            continue
        figures = asdict(report)
        del figures["file"]
        result[name] = figures
    if failed:
        result["not_run"] = failed
    result["meta"] = meta.finish(
        begun, repeats=1, quick=quick, data=setting.data, packages=("onnxruntime", "torch", "numpy")
    )
    result["meta"]["texts"] = len(texts)
    return result


def student(setting: Setting) -> Path:
    """The artefact of the student, trained first where it is not there; its program lies beside it as `.pt2`."""
    folder = HOME / "export" / setting.digest / STUDENT
    program = folder.with_suffix(".pt2")
    if program.is_file():
        return folder
    checkpoints = folder.with_name("checkpoints")
    for one in (folder, checkpoints):
        one.mkdir(parents=True, exist_ok=True)
    trained = train(
        CHOICES[STUDENT],
        setting.task.labels,
        setting.train,
        setting.select,
        on_progress=lambda at: print(f"epoch {at.epoch}, agreement {at.select_agreement:.3f}", file=sys.stderr),
        checkpoint_dir=checkpoints,
        seed=0,
    )
    export(trained, folder, STUDENT)
    save_program(trained, program)
    return folder


def _torch(artefact: Path, program: Path, texts: list[str]) -> dict[str, Any]:
    featuriser = Featuriser(StudentSpec.read(artefact), artefact / TOKENIZER_FILE)
    answer = load_program(program)
    rows = [list(featuriser.inputs(prepared(text)).values()) for text in texts]
    took = []
    for row in rows:
        since = time.perf_counter()
        answer(row)
        took.append((time.perf_counter() - since) * 1e3)
    p50, p95 = np.percentile(took, [50, 95]).tolist()
    return {"bytes": program.stat().st_size, "precision": "fp32", "n_compared": len(rows), "p50_ms": p50, "p95_ms": p95}


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = []
    for name, figures in result.items():
        if name in ("meta", "not_run"):
            continue
        memory, ran = figures.get("memory_bytes"), figures["p50_ms"] is not None
        rows.append(
            [
                name,
                figures["bytes"] / 1e6,
                percent(figures.get("agreement_with_torch")),
                figures.get("max_abs_logit_difference"),
                figures["p50_ms"],
                figures["p95_ms"],
                None if memory is None else memory / 1e6,
                "yes" if ran else "no",
            ]
        )
    lines = table(HEADINGS, rows)
    return lines + "".join(f"\n\nNot run: {name}: {why}" for name, why in result.get("not_run", {}).items())
