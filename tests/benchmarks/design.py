"""`design`: what `stillhouse design` predicts of students, beside the same students trained and exported.

Latency and size are predicted from the shape alone (a cost for each kind of operation, fitted to graphs of other shapes
timed on this machine just before); quality from students of 2 and 3 layers trained on 800 texts. Then students of 2,
3, 4 and 6 layers, and of 3 and 4 with half of their heads and inner neurons, learn from 2,000 texts, and the artefacts
that would serve are timed at the same 16 tokens. Quality is agreement with the teacher on the same 500 texts, in one
run of each.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillhouse.distill.architecture.cost_model import calibrated
from stillhouse.distill.architecture.counting import weight_bytes
from stillhouse.distill.architecture.design import expected_agreement, grid
from stillhouse.distill.architecture.encoder_graph import latency_ms
from stillhouse.distill.architecture.loading import shape_of
from stillhouse.distill.architecture.quality import train_on_sample
from stillhouse.distill.cut_encoder import encoder_source
from stillhouse.distill.export import export
from stillhouse.distill.training import train
from stillhouse.models.features import MODEL_FILE
from stillhouse.models.student import OnnxStudent
from stillhouse.tasks import StudentCandidate
from tests.benchmarks import meta
from tests.benchmarks.population import prepare
from tests.benchmarks.report import percent, table

STUDENTS = ((2, 1.0), (3, 1.0), (3, 0.5), (4, 0.5), (4, 1.0), (6, 1.0))  # layers, share of heads and neurons
LENGTH = 16
HEADINGS = ("student", "ms predicted", "ms", "MB predicted", "MB", "agreement predicted", "agreement")


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark."""
    begun = meta.start()
    setting = prepare(quick, data)
    learnt = 400 if quick else 2000
    rows, select = setting.train[:learnt], setting.select[: learnt // 4]
    judged = setting.test[:: max(1, len(setting.test) // 500)][:500]
    teacher = replace(shape_of(encoder_source()), labels=len(setting.task.labels))
    model = calibrated()
    curves = train_on_sample(rows, (2, 3), sample=200 if quick else 800)
    result: dict[str, Any] = {}
    for layers, width in STUDENTS[:3] if quick else STUDENTS:
        name = f"stillhouse_cut{layers}" + ("_half_width" if width < 1 else "")
        shape = next(
            shape
            for _, shape, _ in grid(teacher, teacher.labels)
            if (shape.layers, shape.heads) == (layers, round(teacher.heads * width))
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder, checkpoints = Path(scratch) / "student", Path(scratch) / "checkpoints"
            folder.mkdir()
            checkpoints.mkdir()
            trained = train(
                StudentCandidate(architecture="cut_encoder", layers=layers, width=width, epochs=4),
                setting.task.labels,
                rows,
                select,
                on_progress=lambda _: None,
                checkpoint_dir=checkpoints,
                seed=0,
            )
            export(trained, folder, name)
            student = OnnxStudent(folder)
            agrees = sum(student.predict_text(row.text)[0] == row.label for row in judged) / len(judged)
            result[name] = {
                "ms_predicted": model.predict(shape, LENGTH),
                "ms": latency_ms(folder / MODEL_FILE, LENGTH),
                "bytes_predicted": weight_bytes(shape),
                "bytes": (folder / MODEL_FILE).stat().st_size,
                "agreement_predicted": expected_agreement(shape, teacher, LENGTH, curves, len(rows)),
                "agreement": agrees,
                "n_test": len(judged),
            }
        print(f"{name}: {result[name]}", file=sys.stderr)
    result["cost_model"] = {"error_left_out": model.error}
    result["meta"] = meta.finish(
        begun, repeats=1, quick=quick, data=setting.data, packages=("onnxruntime", "torch", "numpy")
    )
    return result


def show(result: dict[str, Any]) -> str:
    """The printed table, in Markdown."""
    rows = [
        [
            name,
            figures["ms_predicted"],
            figures["ms"],
            figures["bytes_predicted"] / 1e6,
            figures["bytes"] / 1e6,
            percent(figures["agreement_predicted"]),
            percent(figures["agreement"]),
        ]
        for name, figures in result.items()
        if name.startswith("stillhouse")
    ]
    error = percent(result["cost_model"]["error_left_out"])
    return table(HEADINGS, rows) + f"\n\nOf shapes left out of the fit in turn, latency is predicted {error} wrong."
