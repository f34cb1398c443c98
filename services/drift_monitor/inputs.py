"""The label-free tests of one live student: what is kept of its requests, and what raises a suspicion. Pure.

`Task.drift.false_suspicions` is shared evenly by five tests: the student's outputs, the texts, novelty, latency, cost.
The first `window` requests of the student are the reference for outputs and texts. Latency and cost are compared as
means of 25 requests, so that one enormous value is one exceedance.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict

from services.drift_monitor.novelty import RATE, WIDTH, Known, embed, ngrams
from services.drift_monitor.suspicions import Suspicion, over
from stillhouse.events import InferenceCompleted, SuspicionKind
from stillhouse.quality.binomial import clopper_pearson
from stillhouse.quality.exceedance import RiseDetector, tolerance_limit
from stillhouse.quality.input_drift import HORIZON, level_of, mmd_permutation, permutations_for, softmax_ks
from stillhouse.tasks import Task

TESTS: Final = 5
BLOCK: Final = 25  # requests whose mean latency and cost are one value
BLOCK_RATE: Final = 0.1  # share of blocks that may lie above the limit
BLOCKS: Final = 80  # that make a reference
MARGINS: Final[dict[str, float]] = {"latency": 1.5, "cost": 1.2, "novelty": 1.0}  # smaller rises are not looked for
LONGEST_PAUSE: Final = 64  # windows


@dataclass(frozen=True, slots=True)
class Observation:
    """One answered request of a live student. `row`: softmax and embedding, float16; `novelty`: None where unknown."""

    event_id: str
    time: datetime
    row: bytes
    novelty: float | None
    latency_ms: float
    cost_usd: float


class Rise(BaseModel):
    """A value that may rise: its reference while that is collected, then its detector."""

    model_config = ConfigDict(frozen=True)

    values: tuple[float, ...] = ()
    sums: tuple[float, int] = (0.0, 0)  # of the block that is not full
    detector: dict[str, Any] | None = None


class Volume(BaseModel):
    """Requests by the days of their own times (UTC): today's, and those of the day before that had any."""

    model_config = ConfigDict(frozen=True)

    first: AwareDatetime
    last: AwareDatetime
    today: int = 0
    before: int | None = None

    def a_day(self) -> float | None:
        """Requests a day: the day before's; on the first day, what its hours so far make; None in its first hour."""
        if self.before is not None:
            return float(self.before)
        seconds = (self.last - self.first).total_seconds()
        return self.today * 86_400 / seconds if seconds >= 3600 else None


class InputWatch(BaseModel):
    """One live student's requests, as far as they are counted. Rows of softmax and embedding are kept beside it."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[int, int] = (0, 0)  # window, columns of a row: another task file begins anew
    rows: int = 0  # in the window that is not full
    referred: bool = False  # the reference is complete
    windows: int = 0  # compared so far
    pause: int = 0  # requests that are passed over before a new reference begins
    rises: dict[str, Rise] = {}
    volume: Volume | None = None
    suspicions: tuple[Suspicion, ...] = ()  # open, or not said yet
    raised: int = 0
    dismissed: int = 0
    audits: int = 0
    teachers: tuple[str, ...] = ()
    turn: int | None = None  # of the teacher's last check
    pending: tuple[tuple[str, str], ...] = ()  # checks without an answer: id, and the recorded answer
    asked_pi: float | None = None
    asked: int = 0


@dataclass(slots=True)
class Buffers:
    """The reference's rows and those of the window that is not full."""

    reference: bytes = b""
    window: bytes = b""


def observe(completed: InferenceCompleted, task: Task, known: Known | None) -> Observation:
    """What is kept of a request that the live student was asked; its text is not."""
    assert completed.student is not None
    ids = ngrams(completed.input)
    scores = [completed.student.distribution.get(label, 0.0) for label in task.labels]
    row = np.concatenate([scores, [completed.student.confidence], embed(ids)]).astype(np.float16)
    return Observation(
        completed.id,
        completed.time,
        row.tobytes(),
        known.novelty(ids) if known is not None else None,
        completed.latency_ms,
        completed.cost_usd,
    )


def counted(task: Task, state: InputWatch, observations: Sequence[Observation], known: Known | None) -> InputWatch:
    """Count volume, novelty, latency and cost of new observations, in order."""
    rises, found = dict(state.rises), list[tuple[SuspicionKind, RiseDetector]]()
    if known is not None and "novelty" not in rises:
        rises["novelty"] = Rise(detector=_detector("novelty", task, known.limit).to_dict())
    volume = state.volume
    for item in observations:
        volume = _count_volume(volume, item.time)
    if task.drift.false_suspicions:
        for name, values in (
            ("novelty", [item.novelty for item in observations if item.novelty is not None]),
            ("latency", [item.latency_ms for item in observations]),
            ("cost", [item.cost_usd for item in observations]),
        ):
            rise, alarm = _risen(task, name, rises.get(name, Rise()), values)
            rises[name] = rise
            if alarm is not None:
                found.append((name, alarm))  # type: ignore[arg-type]
    state = state.model_copy(update={"rises": rises, "volume": volume})
    for kind, detector in found:
        lower, _ = clopper_pearson(detector.exceeded, detector.n)
        note = (
            f"{detector.exceeded:,} of {detector.n:,} {'texts' if kind == 'novelty' else 'means of 25'} lie above "
            f"{detector.limit:.4g} (at least {lower:.1%}), where {RATE if kind == 'novelty' else BLOCK_RATE:.0%} may"
        )
        state = suspect(state, kind, detector.statistic, detector.level, detector.n, note)
    return state


def compared(
    task: Task, state: InputWatch, buffers: Buffers, observations: Sequence[Observation], seed: str
) -> tuple[InputWatch, Buffers]:
    """Put rows into the window; compare it with the reference whenever it is full.

    `buffers.window` may be left empty where the window will not become full: then what comes back is to be appended.
    """
    window, columns = task.drift.window, len(task.labels) + 1
    if not task.drift.false_suspicions:
        return state, buffers
    for item in observations:
        if state.pause > 0:
            state = state.model_copy(update={"pause": state.pause - 1})
            continue
        if any(suspicion.kind in ("outputs", "inputs") for suspicion in state.suspicions):
            continue  # what the change is has been said; what is normal now is seen after its end
        buffers.window += item.row
        state = state.model_copy(update={"rows": state.rows + 1})
        if state.rows < window:
            continue
        if not state.referred:
            buffers.reference = buffers.window
        else:
            state = _compare(
                task, state, _table(buffers.reference, window), _table(buffers.window, window), columns, seed
            )
        buffers.window = b""
        state = state.model_copy(update={"rows": 0, "referred": True})
    return state, buffers


def suspect(state: InputWatch, kind: SuspicionKind, statistic: float, level: float, n: int, note: str) -> InputWatch:
    """A new suspicion, unless one of its kind is open."""
    if any(suspicion.kind == kind for suspicion in state.suspicions):
        return state
    suspicion = Suspicion(
        kind=kind,
        number=state.raised,
        statistic=statistic,
        alarm_level=level,
        n=n,
        note=note,
        since=state.audits,
    )
    return state.model_copy(update={"suspicions": (*state.suspicions, suspicion), "raised": state.raised + 1})


def audited(state: InputWatch, audits: int, teachers: Sequence[str]) -> InputWatch:
    """`audits` of the student are counted so far; `teachers` are the versions that the newest of them hold."""
    state = state.model_copy(update={"audits": max(state.audits, audits)})
    for version in dict.fromkeys(teachers):
        if version in state.teachers:
            continue
        if state.teachers:
            note = f"{version} answers; known were {', '.join(state.teachers)}"
            state = suspect(state, "teacher_version", float(len(state.teachers) + 1), 2.0, state.audits, note)
        state = state.model_copy(update={"teachers": (*state.teachers, version)})
    return state


def settled(task: Task, state: InputWatch) -> tuple[InputWatch, list[Suspicion]]:
    """The state without the announced suspicions that are over, and which those were.

    What was suspected is normal from now on: references are collected anew, after a pause that doubles with every
    suspicion that came to nothing, so that restless traffic does not raise one after the other.
    """
    gone = [suspicion for suspicion in state.suspicions if suspicion.announced and over(task, suspicion, state.audits)]
    if not gone:
        return state, gone
    kinds = {suspicion.kind for suspicion in gone}
    update: dict[str, Any] = {"suspicions": tuple(s for s in state.suspicions if s not in gone)}
    if kinds & {"outputs", "inputs", "novelty"}:
        windows = min(LONGEST_PAUSE, 2**state.dismissed)
        update |= {"pause": windows * task.drift.window, "dismissed": state.dismissed + 1}
        update |= {"rows": 0, "referred": False}
    rises = {name: Rise() for name in ("novelty", "teacher") if name in kinds}
    update["rises"] = state.rises | rises
    return state.model_copy(update=update), gone


def said(state: InputWatch, number: int) -> InputWatch:
    """The state once suspicion `number` is announced; what only had to be said is over then."""
    kept = []
    for suspicion in state.suspicions:
        if suspicion.number != number:
            kept.append(suspicion)
        elif suspicion.kind not in ("latency", "cost"):
            kept.append(suspicion.model_copy(update={"announced": True}))
    return state.model_copy(update={"suspicions": tuple(kept)})


def _compare(
    task: Task,
    state: InputWatch,
    reference: NDArray[np.float64],
    window: NDArray[np.float64],
    columns: int,
    seed: str,
) -> InputWatch:
    level = level_of(task.drift.false_suspicions / TESTS, task.drift.window)
    state = state.model_copy(update={"windows": state.windows + 1})
    ks = softmax_ks(reference[:, :columns], window[:, :columns])
    mmd = mmd_permutation(
        reference[:, columns:],
        window[:, columns:],
        permutations=permutations_for(level),
        seed=zlib.crc32(f"{seed}/{state.windows}".encode()),
    )
    tests: tuple[tuple[SuspicionKind, float, str], ...] = (
        ("outputs", ks, "Kolmogorov-Smirnov on the student's softmax, Bonferroni-corrected"),
        ("inputs", mmd, "MMD on hashed n-grams, permutation p-value"),
    )
    for kind, p, how in tests:
        if p <= level:
            note = f"window {state.windows} against the first {task.drift.window:,} requests: p = {p:.2g} ({how})"
            state = suspect(state, kind, p, level, task.drift.window, note)
    return state


def _risen(task: Task, name: str, rise: Rise, values: Sequence[float]) -> tuple[Rise, RiseDetector | None]:
    """`rise` after new values, and its detector where that raised its alarm; then a new reference is collected."""
    block = 1 if name == "novelty" else BLOCK
    wanted = task.drift.window if name == "novelty" else BLOCKS
    reference, (total, count) = list(rise.values), rise.sums
    detector = RiseDetector.from_dict(rise.detector) if rise.detector is not None else None
    for value in values:
        total, count = total + value, count + 1
        if count < block:
            continue
        mean, total, count = total / count, 0.0, 0
        if detector is None:
            reference.append(mean)
            if len(reference) >= wanted:
                delta = task.drift.false_suspicions / TESTS / 2
                limit = tolerance_limit(reference, RATE if name == "novelty" else BLOCK_RATE, delta)
                if limit is not None:
                    detector, reference = _detector(name, task, limit), []
        elif not detector.alarm:
            detector.update(mean)
            if detector.alarm and name != "novelty":
                return Rise(), detector
            if detector.alarm:
                return Rise(detector=detector.to_dict()), detector
    kept = detector.to_dict() if detector is not None else None
    return Rise(values=tuple(reference), sums=(total, count), detector=kept), None


def _detector(name: str, task: Task, limit: float) -> RiseDetector:
    values = HORIZON / (1 if name == "novelty" else BLOCK)
    # Half of the test's share pays for a limit that is too low, half for the detector.
    share = (task.drift.false_suspicions or 0.05) / TESTS / 2
    return RiseDetector(limit * MARGINS[name], RATE if name == "novelty" else BLOCK_RATE, values / share)


def _count_volume(volume: Volume | None, time: datetime) -> Volume:
    if volume is None:
        return Volume(first=time, last=time, today=1)
    days = time.date().toordinal() - volume.last.date().toordinal()
    if days > 0:
        return Volume(first=time, last=time, today=1, before=volume.today if days == 1 else 0)
    # A clock that was set back does not bring a day back.
    return volume.model_copy(update={"last": max(volume.last, time), "today": volume.today + 1})


def _table(rows: bytes, n: int) -> NDArray[np.float64]:
    return np.frombuffer(rows, dtype=np.float16).reshape(n, -1).astype(np.float64)


def row_bytes(task: Task) -> int:
    """The size of one row."""
    return 2 * (len(task.labels) + 1 + WIDTH)
