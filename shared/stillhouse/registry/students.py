"""Training runs and students in MLflow: a SQLite file and a folder under the platform's home, no server, no network.

Look at them with `mlflow ui --backend-store-uri sqlite:///<home>/mlflow.db`. Importing mlflow takes 3 s and 200 MB, so
it is imported inside of the functions, which belong into job subprocesses. They block, and may be called again with the
same student, by several processes too.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args
from urllib.parse import urlsplit
from urllib.request import url2pathname

from stillhouse.events import StudentEvaluated, StudentTrained

if TYPE_CHECKING:
    from mlflow import MlflowClient

Alias = Literal["champion", "challenger"]

STUDENT_TAG: Final = "stillhouse.student_id"
ERASED_TAG: Final = "stillhouse.trained_on_erased"
EVALUATED_TAG: Final = "stillhouse.evaluation_id"
LONGEST_VALUE: Final = 5000  # characters; MLflow refuses tags beyond 8,000 and parameters beyond 6,000
TRIAL_TAG: Final = "stillhouse.sweep_trial"
METRICS_AT_ONCE: Final = 1000  # MLflow refuses more in one call


def log_training_run(
    home: Path,
    *,
    student: StudentTrained,
    parameters: Mapping[str, Any],
    curves: Sequence[Mapping[str, Any]],
    job: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> str:
    """Log how `student` came to be, and give the run's id; the run there is, where it was logged before.

    `curves` has an entry for each step (its `epoch`, else its position): every number in it becomes a point. The last
    point of a metric and the student's own metrics stand beside the parameters. A run that an earlier call left
    unfinished is finished. `job` is what the training job was told and `environment` what it ran in: with both and the
    dataset the student can be trained again (`training_record`).
    """
    with _client(home) as client:
        from mlflow.entities import Metric, Param

        experiment = _experiment(client, student.task_key, home)
        found = client.search_runs([experiment], f"tags.`{STUDENT_TAG}` = '{student.student_id}'", max_results=1)
        began = int(student.time.timestamp() * 1000)
        run = found[0] if found else client.create_run(experiment, began, _tags(student), run_name=student.student_id)
        run_id = str(run.info.run_id)
        if run.info.status == "FINISHED":
            return run_id
        points = [
            # Times follow from the event, so a point that is logged again is the same point.
            Metric(name, float(value), began, int(entry.get("epoch", position)))
            for position, entry in enumerate(curves)
            for name, value in entry.items()
            if name != "epoch" and _is_number(value)
        ]
        points += [Metric(f"student.{name}", value, began, 0) for name, value in student.metrics.items()]
        points.append(Metric("cpu_seconds.total", student.cpu_seconds, began, 0))
        client.log_batch(run_id, params=[Param(name, str(value)[:LONGEST_VALUE]) for name, value in parameters.items()])
        for start in range(0, len(points), METRICS_AT_ONCE):
            client.log_batch(run_id, metrics=points[start : start + METRICS_AT_ONCE])
        client.log_dict(run_id, student.model_dump(mode="json"), "student.json")
        client.log_dict(run_id, {"curves": [dict(entry) for entry in curves]}, "curves.json")
        if job is not None:
            client.log_dict(run_id, dict(job), "job.json")
        if environment is not None:
            client.log_dict(run_id, dict(environment), "environment.json")
        client.set_terminated(run_id, "FINISHED", end_time=began)
        return run_id


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What a run says about how its student came to be. `environment` is empty where the run has none."""

    run_id: str
    student: StudentTrained
    job: dict[str, Any]
    environment: dict[str, Any]


def training_record(home: Path, run: str) -> TrainingRecord:
    """The record of a training run, named by its id or its student's. Raises `LookupError` in one sentence."""
    if not (home / "mlflow.db").exists():
        raise LookupError(f"{home} holds no MLflow runs; name the platform's folder with --home.")
    with _client(home) as client:
        from mlflow.exceptions import MlflowException

        experiments = [str(one.experiment_id) for one in client.search_experiments()]
        found = (
            client.search_runs(experiments, f"tags.`{STUDENT_TAG}` = '{run}'", max_results=1) if "'" not in run else []
        )
        try:
            run_id = str(found[0].info.run_id) if found else str(client.get_run(run).info.run_id)
        except MlflowException:
            raise LookupError(
                f"{home / 'mlflow.db'} has no run and no student {run!r}; `mlflow ui` lists them."
            ) from None
        folder = Path(url2pathname(urlsplit(str(client.get_run(run_id).info.artifact_uri)).path))
    read = {}
    for name in ("student", "job", "environment"):
        path = folder / f"{name}.json"
        read[name] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if read["student"] is None or read["job"] is None:
        missing = "student" if read["student"] is None else "job"
        raise LookupError(f"Run {run_id} has no {missing}.json: it was logged before runs could be trained again.")
    return TrainingRecord(
        run_id, StudentTrained.model_validate(read["student"]), read["job"], read["environment"] or {}
    )


def log_evaluation(home: Path, *, evaluated: StudentEvaluated, report: Path | None = None) -> str:
    """Log what the offline gate found as a run of its own, and give its id; the run there is, where it was logged.

    Metrics are the event's, and of each condition the estimate and bounds; the event and the report are its artefacts.
    """
    with _client(home) as client:
        from mlflow.entities import Metric, Param

        experiment = _experiment(client, evaluated.task_key, home)
        found = client.search_runs([experiment], f"tags.`{EVALUATED_TAG}` = '{evaluated.id}'", max_results=1)
        began = int(evaluated.time.timestamp() * 1000)
        tags = {EVALUATED_TAG: evaluated.id, "stillhouse.evaluated_student": evaluated.student_id}
        name = f"gate of {evaluated.student_id}"
        run = found[0] if found else client.create_run(experiment, began, tags, run_name=name)
        run_id = str(run.info.run_id)
        if run.info.status == "FINISHED":
            return run_id
        values = dict(evaluated.metrics) | {"cases": float(evaluated.n)}
        for one in evaluated.conditions:
            key = "condition." + re.sub(r"[^\w./ -]", "_", one.name)  # what MLflow allows in a name
            told = {"": one.estimate, ".lower": one.lower, ".upper": one.upper}
            values |= {f"{key}{part}": value for part, value in told.items() if value is not None}
        parameters = {
            "student": evaluated.student_id,
            "verdict": evaluated.verdict,
            "teacher": evaluated.teacher_version,
            "dataset": evaluated.dataset_version,
            "golden": evaluated.golden_version,
        }
        points = [Metric(key, float(value), began, 0) for key, value in values.items() if _is_number(value)]
        client.log_batch(run_id, params=[Param(key, str(value)[:LONGEST_VALUE]) for key, value in parameters.items()])
        for start in range(0, len(points), METRICS_AT_ONCE):
            client.log_batch(run_id, metrics=points[start : start + METRICS_AT_ONCE])
        client.log_dict(run_id, evaluated.model_dump(mode="json"), "evaluation.json")
        if report is not None and report.exists():
            client.log_artifact(run_id, str(report))
        client.set_terminated(run_id, "FINISHED", end_time=began)
        return run_id


def log_sweep_trial(
    home: Path, *, sweep: str, number: int, parameters: Mapping[str, Any], metrics: Mapping[str, float]
) -> str:
    """Log one candidate of a sweep as a run of the experiment `sweep~<sweep>`, once for each number; give its id."""
    with _client(home) as client:
        from mlflow.entities import Metric, Param

        experiment = _experiment(client, f"sweep/{sweep}", home)
        found = client.search_runs([experiment], f"tags.`{TRIAL_TAG}` = '{number}'", max_results=1)
        if found and found[0].info.status == "FINISHED":
            return str(found[0].info.run_id)
        run = found[0] if found else client.create_run(experiment, tags={TRIAL_TAG: str(number)}, run_name=str(number))
        run_id, began = str(run.info.run_id), int(run.info.start_time)
        client.log_batch(
            run_id,
            params=[Param(key, str(value)[:LONGEST_VALUE]) for key, value in parameters.items()],
            metrics=[Metric(key, float(value), began, 0) for key, value in metrics.items() if _is_number(value)],
        )
        client.set_terminated(run_id, "FINISHED")
        return run_id


def register_student(home: Path, *, student: StudentTrained, run_id: str) -> str:
    """Make `student` a version of its task's registered model, and give that version; the one there is, if any.

    The version points to the artefact where it lies. It is not copied: the gate judged those bytes.
    """
    with _client(home) as client:
        from mlflow.exceptions import MlflowException

        version = _version_of(client, student.student_id)
        if version is not None:
            return version[1]
        name = model_name(student.task_key)
        try:
            client.create_registered_model(name, {"stillhouse.task": student.task_key})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = client.create_model_version(name, student.artefact.uri, run_id, tags=_tags(student))
        return str(created.version)


def set_alias(home: Path, student_id: str, alias: Alias) -> None:
    """Name `student_id` the champion or challenger of its task, instead of whoever it was.

    Raises `LookupError` where the student is not registered and `ValueError` for other aliases.
    """
    if alias not in get_args(Alias):
        raise ValueError(f"{alias!r} is no alias of a student: use {' or '.join(get_args(Alias))}.")
    with _client(home) as client:
        version = _version_of(client, student_id)
        if version is None:
            raise LookupError(f"No student {student_id!r} in {home / 'mlflow.db'}: register it first.")
        client.set_registered_model_alias(version[0], alias, version[1])


def mark_erased(home: Path, student_id: str, at: datetime) -> bool:
    """Tag run and model version of a student that was trained on what was erased at `at`; False if it has none yet."""
    with _client(home) as client:
        version = _version_of(client, student_id)
        if version is None:
            return False
        client.set_model_version_tag(*version, ERASED_TAG, at.isoformat())
        run_id = client.get_model_version(*version).run_id
        if run_id:
            client.set_tag(run_id, ERASED_TAG, at.isoformat())
        return True


def model_name(task_key: str) -> str:
    """The registered model of a task: MLflow's names hold no slash, and names of tasks hold no tilde."""
    return task_key.replace("/", "~")


@contextmanager
def _client(home: Path) -> Iterator[MlflowClient]:
    """MLflow on `home`, for one process at a time: it makes its tables on first use, and two would collide there."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
    os.environ["DO_NOT_TRACK"] = "true"
    from mlflow import MlflowClient

    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        uri = f"sqlite:///{home / 'mlflow.db'}"
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment(client: MlflowClient, task_key: str, home: Path) -> str:
    """The experiment that a task's runs are in."""
    name = model_name(task_key)
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, (home.resolve() / "mlflow" / name).as_uri()))


def _version_of(client: MlflowClient, student_id: str) -> tuple[str, str] | None:
    """Registered model and version of a student."""
    for version in client.search_model_versions(f"tags.`{STUDENT_TAG}` = '{student_id}'"):
        return str(version.name), str(version.version)
    return None


def _tags(student: StudentTrained) -> dict[str, str]:
    """The lineage: what it was made of, by what, and what came out."""
    tags = {
        STUDENT_TAG: student.student_id,
        "stillhouse.task": student.task_key,
        "stillhouse.job_id": student.job_id,
        "stillhouse.event_id": student.id,
        "stillhouse.architecture": student.architecture,
        "stillhouse.teacher_version": student.teacher_version,
        "stillhouse.dataset_version": student.dataset.version,
        "stillhouse.dataset_uri": student.dataset.uri,
        "stillhouse.dataset_cutoff": student.dataset.cutoff.isoformat(),
        "stillhouse.artefact_sha256": student.artefact.sha256,
        "stillhouse.artefact_uri": student.artefact.uri,
    }
    return {name: value[:LONGEST_VALUE] for name, value in tags.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
