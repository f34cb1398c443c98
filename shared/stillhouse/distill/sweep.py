"""A search over students: method, temperature, alpha and architecture, by agreement, cost and size at once.

Optuna's tree-structured Parzen estimator (Bergstra et al. 2011; for several objectives Ozaki et al. 2022) proposes
candidates; each is trained, exported, and asked as it would serve. Nothing is better than everything else at once, so
the result is the Pareto front. Trials are chosen by one part of the texts, and those of the front are judged once on
another: the best of many is always luckier than it is good.

A sweep is a folder: Optuna's journal, and each trial's files. One that was stopped goes on where it was.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from stillhouse.distill.data import LabelledText
from stillhouse.models.port import ModelError
from stillhouse.quality.binomial import clopper_pearson
from stillhouse.tasks.students import StudentCandidate

METHODS: Final = ("blend", "hard_labels", "standardised_logits", "dkd", "dist")
BESIDE: Final = ("nothing", "rkd")  # terms on relations between texts, which every architecture has vectors for
HIDDEN: Final = ("nothing", "hidden_cosine")  # and on hidden states, of cut encoders
STARTUP: Final = 8  # random trials before the estimator proposes
MOST_TIMED: Final = 200
TRIAL_FILE: Final = "trial.json"
SECONDS_FILE: Final = "seconds"  # wall clock of all runs
OBJECTIVES: Final = ("agreement", "cpu_ms", "bytes")


@dataclass(frozen=True, slots=True)
class Parts:
    """Texts with the teacher's answers: to learn from, to choose epochs on, to choose trials on, to judge the front."""

    labels: tuple[str, ...]
    train: Sequence[LabelledText]
    select: Sequence[LabelledText]
    judge: Sequence[LabelledText]
    test: Sequence[LabelledText]


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate. `agreement` on the judging part, `test` (agreement, lower, upper) where it is on the front.

    `cpu_ms` of one text as it is served, `bytes` of the artefact, `cpu_seconds` of training and export, `answers` of
    the teacher that it learnt from. `failed` says why there is none of these.
    """

    number: int
    candidate: dict[str, Any]
    method: str
    agreement: float | None = None
    cpu_ms: float | None = None
    bytes: int | None = None
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    answers: int = 0
    failed: str | None = None
    test: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """All trials so far, which of them are on the Pareto front (numbers), and wall-clock seconds spent by all runs."""

    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    seconds: float


def sweep(
    folder: Path,
    parts: Parts,
    *,
    architectures: Sequence[str],
    minutes: float,
    answers: int | None = None,
    most_trials: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    on_progress: Callable[[int, str, float], None] = lambda number, what, fraction: None,
) -> Sweep:
    """Search until `minutes` (of all runs of this folder together) or `most_trials` are spent; gives what was found.

    `answers`: how many of the teacher's answers a student may learn from, at most; the first of `parts.train`. A trial
    that would overrun the time is cut and counts as failed. Raises `ModelError` in one sentence.
    """
    try:
        import optuna
    except ImportError:
        raise ModelError("optuna is not installed; install stillhouse[sweep].") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in ("train", "select", "judge", "test"):
        if not getattr(parts, name):
            raise ModelError(f"No text is left for the part {name!r}; give more rows.")
    folder.mkdir(parents=True, exist_ok=True)
    learn = parts.train[:answers] if answers is not None else parts.train
    with _alone(folder):
        study = _study(folder, seed)
        spent, began = _spent(folder), time.monotonic()

        def left() -> float:
            return 60.0 * minutes - spent - (time.monotonic() - began)

        while left() > 0 and (most_trials is None or len(_trials(folder)) < most_trials):
            asked = study.ask()
            candidate, method = _candidate(asked, architectures, epochs, seed)
            trial = _tried(folder / str(asked.number), asked.number, candidate, method, parts, learn, left, on_progress)
            if trial.failed is None:
                study.tell(asked, [float(getattr(trial, name)) for name in OBJECTIVES])
            else:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
            (folder / SECONDS_FILE).write_text(f"{spent + time.monotonic() - began}", encoding="utf-8")
            on_trial(trial)
        return _found(folder, parts)


def pareto(points: Sequence[tuple[float, float, float]]) -> list[int]:
    """Places of `points` (agreement, cpu_ms, bytes) that no other is at least as good as in all, and better in one.

    >>> pareto([(0.9, 1.0, 5), (0.8, 2.0, 6), (0.8, 0.5, 5), (0.9, 1.0, 5)])
    [0, 2, 3]
    """
    table = np.array(points, dtype=np.float64).reshape(-1, 3) * np.array([-1.0, 1.0, 1.0])
    return [
        place for place, own in enumerate(table) if not ((table <= own).all(axis=1) & (table < own).any(axis=1)).any()
    ]


def _candidate(asked: Any, architectures: Sequence[str], epochs: int | None, seed: int) -> tuple[StudentCandidate, str]:
    """What Optuna proposes. Every dimension has one name wherever it is asked for, so that trials teach each other."""
    architecture = asked.suggest_categorical("architecture", list(architectures))
    method = asked.suggest_categorical("method", list(METHODS))
    fields: dict[str, Any] = {"architecture": architecture, "seed": seed}
    if architecture in ("cut_encoder", "joint"):
        fields["layers"] = asked.suggest_int("layers", 2, 4)
    if architecture == "cut_encoder":
        fields["width"] = asked.suggest_categorical("width", [0.5, 0.75, 1.0])
    else:
        fields["dim"] = 2 ** asked.suggest_int("log2_dim", 5, 8)
    if epochs is not None:
        fields["epochs"] = epochs
    if method == "hard_labels":
        return StudentCandidate.model_validate(fields | {"alpha": 1.0}), method
    temperature = asked.suggest_float("temperature", 1.0, 8.0, log=True)
    alpha = asked.suggest_float("alpha", 0.0, 0.9)
    beside = []
    if (relation := asked.suggest_categorical("beside", list(BESIDE))) != "nothing":
        beside.append({"kind": relation, "weight": asked.suggest_float("beside_weight", 0.01, 1.0, log=True)})
    if architecture == "cut_encoder" and (hidden := asked.suggest_categorical("hidden", list(HIDDEN))) != "nothing":
        beside.append({"kind": hidden, "weight": asked.suggest_float("hidden_weight", 0.1, 10.0, log=True)})
    if method == "blend" and not beside:
        return StudentCandidate.model_validate(fields | {"alpha": alpha, "temperature": temperature}), method
    answers = "soft_targets" if method == "blend" else method
    terms: list[dict[str, Any]] = [{"kind": answers, "temperature": temperature, "weight": 1.0 - alpha}, *beside]
    if alpha > 0:
        terms.append({"kind": "hard_labels", "weight": alpha})
    named = "+".join([method, *(str(term["kind"]) for term in beside)])
    return StudentCandidate.model_validate(fields | {"distill": terms}), named


class _OutOfTimeError(Exception):
    pass


def _tried(
    folder: Path,
    number: int,
    candidate: StudentCandidate,
    method: str,
    parts: Parts,
    learn: Sequence[LabelledText],
    left: Callable[[], float],
    on_progress: Callable[[int, str, float], None],
) -> Trial:
    # Here and not above: they import torch.
    from stillhouse.distill.export import export
    from stillhouse.distill.joint import train_joint
    from stillhouse.distill.training import Progress, train
    from stillhouse.models.artefact import write_manifest
    from stillhouse.models.student import OnnxStudent

    shutil.rmtree(folder, ignore_errors=True)
    checkpoints, artefact = folder / "checkpoints", folder / "artefact"
    checkpoints.mkdir(parents=True)
    artefact.mkdir()
    began, cpu = time.monotonic(), time.process_time()

    def on_epoch(at: Progress) -> None:
        on_progress(number, f"{candidate.architecture}, {method}", at.epoch / at.epochs)
        if left() < 0:
            raise _OutOfTimeError

    def ended(**found: Any) -> Trial:
        spent = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu, "answers": len(learn)}
        trial = Trial(number, candidate.model_dump(mode="json"), method, **(spent | found))
        shutil.rmtree(checkpoints, ignore_errors=True)
        _write(folder / TRIAL_FILE, trial)
        return trial

    fit = train_joint if candidate.architecture == "joint" else train
    try:
        trained = fit(
            candidate,
            parts.labels,
            learn,
            parts.select,
            on_progress=on_epoch,
            checkpoint_dir=checkpoints,
            seed=candidate.seed,
        )
        report = export(trained, artefact, f"trial-{number}")
        spent = time.process_time() - cpu
        write_manifest(artefact)
        student = OnnxStudent(artefact)
        agreement = _agreeing(student, parts.judge) / len(parts.judge)
        timed = [text.text for text in parts.judge[:MOST_TIMED]]
        begun = time.process_time()
        for text in timed:
            student.predict_text(text)
        cpu_ms = 1000.0 * (time.process_time() - begun) / len(timed)
    except _OutOfTimeError:
        shutil.rmtree(artefact, ignore_errors=True)
        return ended(failed="the time was over")
    except ModelError as error:
        shutil.rmtree(artefact, ignore_errors=True)
        return ended(failed=str(error))
    return ended(agreement=agreement, cpu_ms=cpu_ms, bytes=report.bytes, cpu_seconds=spent)


def _agreeing(student: Any, texts: Sequence[LabelledText]) -> int:
    return sum(student.predict_text(text.text)[0] == text.label for text in texts)


def _found(folder: Path, parts: Parts) -> Sweep:
    """The sweep so far; trials of the front are judged where they were not, and only their artefacts are kept."""
    from stillhouse.models.student import OnnxStudent

    trials = _trials(folder)
    done = [trial for trial in trials if trial.failed is None]
    front = {done[place].number for place in pareto([tuple(getattr(one, key) for key in OBJECTIVES) for one in done])}
    for place, trial in enumerate(trials):
        artefact = folder / str(trial.number) / "artefact"
        if trial.number in front and trial.test is None and artefact.exists():
            right = _agreeing(OnnxStudent(artefact), parts.test)
            test = (right / len(parts.test), *clopper_pearson(right, len(parts.test)))
            trials[place] = Trial(**{**asdict(trial), "test": test})
            _write(folder / str(trial.number) / TRIAL_FILE, trials[place])
        elif trial.number not in front:
            shutil.rmtree(artefact, ignore_errors=True)
    return Sweep(tuple(trials), tuple(sorted(front)), _spent(folder))


def _study(folder: Path, seed: int) -> Any:
    """Optuna's study in `folder`; what a killed run left unfinished is told as failed."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = optuna.create_study(
        storage=storage,
        study_name="sweep",
        directions=["maximize", "minimize", "minimize"],
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP),
    )
    unfinished = [one for one in study.get_trials(deepcopy=False) if one.state == optuna.trial.TrialState.RUNNING]
    for one in unfinished:
        study.tell(one.number, state=optuna.trial.TrialState.FAIL)
    # Drawn anew after so many trials: a resumed sweep must not propose its first ones again.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=STARTUP)
    return study


def _trials(folder: Path) -> list[Trial]:
    found = []
    for path in folder.glob(f"*/{TRIAL_FILE}"):
        told = json.loads(path.read_text(encoding="utf-8"))
        found.append(Trial(**{**told, "test": tuple(told["test"]) if told["test"] else None}))
    return sorted(found, key=lambda trial: trial.number)


def _spent(folder: Path) -> float:
    path = folder / SECONDS_FILE
    return float(path.read_text(encoding="utf-8")) if path.exists() else 0.0


def _write(path: Path, trial: Trial) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(trial), indent=1), encoding="utf-8")
    draft.replace(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ModelError(f"Another sweep runs in {folder}; wait for it, or name another --name.") from None
        yield
