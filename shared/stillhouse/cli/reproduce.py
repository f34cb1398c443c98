"""`stillhouse train --reproduce RUN`: train a recorded student again, from its MLflow run, and compare the two.

The trainer's own job does it, in a process and a folder of its own: it reads the frozen dataset and the examples that
the platform recorded, and writes its artefact beside the platform's, never over it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stillhouse.bus.jobs import ERROR_FILE, RESULT_FILE, read_json, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from stillhouse.registry import TrainingRecord

JOB: Final = "services.trainer.job"
MOST_ASKED: Final = 1000
LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Reproduced:
    """How the second student compares with the first. `bit_exact`: the same bytes, all of them.

    `files` maps each file that differs to why. `max_logit_difference` and `agreement` are over `asked` texts that chose
    the epoch; None where the first artefact is gone, or answers no texts. `changed` says what else is not as it was.
    """

    run_id: str
    student_id: str
    recorded_sha256: str
    sha256: str
    bit_exact: bool
    folder: str
    cpu_seconds: float
    files: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    agreement: float | None = None
    max_logit_difference: float | None = None
    changed: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """For people."""
        if self.bit_exact:
            said = [f"Bit for bit the same student: sha256 {self.sha256[:12]}… of all its files."]
        else:
            said = [f"Not the same bytes: sha256 {self.recorded_sha256[:12]}… then, {self.sha256[:12]}… now."]
            said += [f"  {name}: {why}" for name, why in self.files.items()]
            if self.agreement is not None:
                said.append(
                    f"They give the same label for {self.agreement:.2%} of {self.asked:,} texts; "
                    f"the largest difference of logits is {self.max_logit_difference:.3g}."
                )
        said += [f"Changed since: {change}." for change in self.changed]
        return [*said, f"The new artefact is in {self.folder}."]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def reproduce(run: str, home: Path, console: Console) -> Reproduced:
    """Train the student of `run` (a run's id or a student's) again. ValueError in one sentence where that cannot be."""
    from stillhouse.models.artefact import reference
    from stillhouse.registry import training_record
    from stillhouse.registry.environment import differences, environment

    home = home.resolve()
    try:
        record = training_record(home, run)
    except LookupError as error:
        raise ValueError(str(error).rstrip(".")) from None
    folder = home / "reproductions" / record.run_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    changed = [*_dataset(record, home, folder), *differences(record.environment, environment())]
    told = record.job | {"home": str(home), "artefacts": str(folder / "artefacts")}
    write_json(folder / "job.json", told)
    _train(folder, console)
    result = read_json(folder / RESULT_FILE)
    assert result is not None
    target = folder / "artefacts" / record.student.student_id
    made = reference(target)
    same = made.sha256 == record.student.artefact.sha256
    differs: dict[str, Any] = {} if same else _compared(home, record, folder, target)
    return Reproduced(
        run_id=record.run_id,
        student_id=record.student.student_id,
        recorded_sha256=record.student.artefact.sha256,
        sha256=made.sha256,
        bit_exact=same,
        folder=str(target),
        cpu_seconds=float(result["cpu_seconds"]),
        changed=tuple(changed),
        **differs,
    )


def _dataset(record: TrainingRecord, home: Path, folder: Path) -> list[str]:
    """Hand the frozen dataset to the job; gives what was erased from it."""
    from stillhouse.store.datasets import erased_datasets

    dataset = record.student.dataset
    path = home / "datasets" / f"{dataset.version}.parquet"
    if not path.exists():
        raise ValueError(
            f"{path} is gone: without its frozen dataset {record.student.student_id} cannot be trained again"
        )
    write_json(folder / "dataset.json", dataset.model_dump(mode="json") | {"uri": path.as_uri()})
    erased = erased_datasets(home / "datasets").get(dataset.version)
    return [] if erased is None else [f"examples were erased from its dataset on {erased:%Y-%m-%d}"]


def _train(folder: Path, console: Console) -> None:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from stillhouse.cli.following import describe

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with (folder / "job.log").open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", JOB, str(folder)], stdout=output, stderr=output)
        try:
            with Progress(*columns, console=console, transient=True) as bar:
                shown = bar.add_task("starting", total=1.0)
                while process.poll() is None:
                    at = read_json(folder / "progress.json") or {}
                    if at:
                        bar.update(shown, description=describe(at), completed=at["fraction"])
                    time.sleep(LOOK_S)
        finally:
            process.terminate()
            process.wait()
    if not (folder / RESULT_FILE).exists():
        error = (read_json(folder / ERROR_FILE) or {}).get("message")
        lines = (folder / "job.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        why = str(error or (lines[-1] if lines else "it says nothing")).rstrip(".")
        raise ValueError(f"the training job ended without a student ({why}); see {folder / 'job.log'}")


def _compared(home: Path, record: TrainingRecord, folder: Path, made: Path) -> dict[str, Any]:
    """Which files differ and how, and how the two students answer the same texts."""
    from stillhouse.models.artefact import MANIFEST_FILE, verify
    from stillhouse.models.port import ModelError

    now = json.loads((made / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    try:
        first = verify(record.student.artefact)
    except ModelError:
        return {"files": {"the first artefact": "it is gone, so only its sha256 can be compared"}}
    then = json.loads((first / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
    files = {
        name: "not there then" if name not in then else "not there now" if name not in now else _why(first, made, name)
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    }
    texts = _texts(home, record, folder)
    found: dict[str, Any] = {"files": files}
    if texts and (first / "student.json").exists():
        import numpy as np

        from stillhouse.models.student import OnnxStudent

        try:
            one, two = (OnnxStudent(path) for path in (first, made))
            logits = [np.stack([model.logits(text) for text in texts]) for model in (one, two)]
        except ModelError:
            return found
        same = logits[0].argmax(axis=1) == logits[1].argmax(axis=1)
        apart = float(np.abs(logits[0] - logits[1]).max())
        found |= {"asked": len(texts), "agreement": float(same.mean()), "max_logit_difference": apart}
    return found


def _why(first: Path, made: Path, name: str) -> str:
    if name.endswith(".safetensors"):
        import numpy as np
        from safetensors.numpy import load_file

        then, now = load_file(first / name), load_file(made / name)
        if then.keys() == now.keys() and all(then[key].shape == now[key].shape for key in then):
            apart = max(float(np.abs(then[key].astype(np.float64) - now[key].astype(np.float64)).max()) for key in then)
            return f"the largest difference of weights is {apart:.3g}"
    return f"{(first / name).stat().st_size:,} bytes then, {(made / name).stat().st_size:,} now"


def _texts(home: Path, record: TrainingRecord, folder: Path) -> Sequence[str]:
    """The texts that chose the epoch, at most a thousand."""
    import pyarrow.parquet as pq

    from stillhouse.store import Store

    rows = pq.read_table(home / "datasets" / f"{record.student.dataset.version}.parquet").to_pylist()
    ids = [row["example_id"] for row in rows if row["split"] == "select"][:MOST_ASKED]
    table = Store(home / "store").examples_named(record.student.task_key, ids)
    return [str(text) for text in table.column("input").to_pylist()]
