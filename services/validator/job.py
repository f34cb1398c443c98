"""`python -m services.validator.job <round folder>`: one look of a gate that needs the student to run.

`offline` runs the artefact on cases it never saw; `shadow` runs it again on what it was asked in shadow. Both go
through the runtime that serves, so what is judged is what is served. The validator supervises this process; everything
it must remember between looks (threshold, share of alpha, outcomes so far) is in the gate's folder, one above.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from services.validator.account import share, spent
from services.validator.answers import Opinions, keep, opinions_of
from services.validator.cases import Costs, Facts, Outcome
from services.validator.evidence import champion_loss, facts_of, golden_version, outcomes_of
from services.validator.judged import Judged, judged
from services.validator.offline import judge
from services.validator.report import render
from stillhouse.bus.jobs import ERROR_FILE, PERMANENT, RESULT_FILE, end_with_parent, read_json, write_json
from stillhouse.events import ArtefactRef, StudentTrained
from stillhouse.models.artefact import folder_of, verify
from stillhouse.models.port import ModelError
from stillhouse.quality.thresholds import choose_threshold
from stillhouse.store import Store
from stillhouse.tasks import Task
from stillhouse.tasks.comparators import Comparison, comparator_of
from stillhouse.tasks.conditions import Recall

FEWEST_UNBIASED: Final = 50  # select cases of the unbiased samples; with fewer, all select cases choose the threshold
THRESHOLD_DOUBT: Final = 0.1  # level of the bound by which the threshold is chosen
REPLAY_WAIT_S: Final = 60.0


def main(folder: Path) -> int:
    """One look. Exit status 0 (a result is there), 1 (try again) or 3 (pointless)."""
    end_with_parent()
    gate = folder.parent.parent
    with (gate / "job.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # never two at one gate's outcomes
        if (folder / RESULT_FILE).exists():
            return 0
        job: dict[str, Any] = json.loads((gate / "job.json").read_text(encoding="utf-8"))
        model: Judged | None = None
        try:
            task = Task.model_validate(job["task"]).priced(datetime.now(UTC))
            student = StudentTrained.model_validate(job["student"])
            home = Path(job["home"])
            model = judged(student.architecture, verify(student.artefact), home)
            store = Store(home / "store")
            if job["kind"] == "shadow":
                result = replay(task, student, model, store, job["request_ids"])
            else:
                result = offline(gate, task, student, model, store, home)
        except ModelError as error:
            # A student that does not load or answer will not be let through: that is a verdict, not a failed job.
            result = {"broken": str(error)}
        except LookupError as error:
            write_json(folder / ERROR_FILE, {"message": str(error)})
            return PERMANENT
        used = resource.getrusage(resource.RUSAGE_SELF)
        beside = (model.beside_s if model is not None else 0.0) + result.pop("beside_s", 0.0)
        write_json(folder / RESULT_FILE, result | {"cpu_seconds": used.ru_utime + used.ru_stime + beside})
    return 0


def offline(gate: Path, task: Task, student: StudentTrained, model: Judged, store: Store, home: Path) -> dict[str, Any]:
    """Judge the student on select cases (threshold) and gate cases (everything else)."""
    compare = _comparison(task, home)
    frozen = pq.read_table(folder_of(ArtefactRef(uri=student.dataset.uri, sha256="", size=0))).to_pylist()
    counted = store.count_examples(task.key, student.dataset.cutoff)
    fixed = read_json(gate / "fixed.json")
    if fixed is None:
        fixed = _fix(task, student, model, store, frozen, compare)
        write_json(gate / "fixed.json", fixed)
    threshold, alpha = float(fixed["threshold"]), float(fixed["alpha"])

    known = [Outcome(**entry) for entry in read_json(gate / "outcomes.json") or []]
    champion = champion_loss(fixed.get("champion"), compare, home)
    fresh = outcomes_of(task, student, model, store, frozen, {outcome.case_id for outcome in known}, compare, champion)
    if task.gate.about_answers:  # first: what counts as judged below is not asked again
        keep(task, student.student_id, home, fresh.rows, fresh.said, threshold)
    outcomes = (known + fresh.outcomes)[: task.gate.max_cases]
    write_json(gate / "outcomes.json", [asdict(outcome) for outcome in outcomes])

    price = task.budget.usd_per_cpu_hour / 3600
    student_usd = (fresh.cpu_each or float(fixed["cpu_each"])) * price
    overhead = (student.cpu_seconds + time.process_time()) * price
    recorded = store.examples(task.key).to_pylist()
    facts = facts_of(task, student, model, recorded, frozen, threshold, alpha, compare)
    opinions = Opinions()
    if task.gate.about_answers:
        artefact = folder_of(student.artefact)
        opinions = opinions_of(task, student.student_id, artefact, gate, home, alpha, compare)
        facts = replace(facts, opinions=opinions.conditions, unasked=opinions.left)
    judgement = judge(task, threshold, outcomes, alpha, Costs(student_usd, overhead), facts)
    metrics = _metrics(outcomes, threshold, facts)
    folder = home / "evaluations" / student.student_id
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "offline.html"
    account = spent(store.evaluations(task.key).to_pylist(), student.student_id, alpha, judgement.verdict)
    data = student.dataset
    shown = {
        "student": student.student_id,
        "artefact sha256": student.artefact.sha256,
        "teacher": student.teacher_version,
        "dataset": f"{data.version[:12]}, {data.n_train} train, {data.n_select} select",
        "golden set": (golden_version(task) or "none")[:12],
        "threshold": f"{threshold:.4f}, chosen on {fixed['n_select']} select cases for a risk of {fixed['risk']:.4f}",
        "alpha": f"{alpha:.5f}, student {fixed['k']} of the task's account of {task.gate.alpha}",
        "agreement without threshold": f"{metrics.get('raw_agreement', float('nan')):.4f}",
        "CPU per prediction": f"{student_usd / price * 1000 if price else 0.0:.3f} ms",
        "judged at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    promise = task.cascade.sentence(task.gate.epsilon)
    counted_cases = [case for case in outcomes if task.cascade.counts(case.served(threshold))]
    _write_text(
        report, render(shown, judgement, outcomes, counted_cases, threshold, task.gate.epsilon, promise, alpha, account)
    )
    return {
        "judgement": asdict(judgement) | {"conditions": [c.model_dump() for c in judgement.conditions]},
        "threshold": threshold,
        "k": fixed["k"],
        "alpha": alpha,
        "account": account,
        "golden_version": golden_version(task),
        "metrics": metrics | {"student_usd": student_usd, "select_coverage": float(fixed["coverage"])},
        "counted": counted,
        "told": opinions.told,
        "judge_usd": opinions.usd,
        "beside_s": opinions.beside_s,
        "report_uri": report.resolve().as_uri(),
    }


def _comparison(task: Task, home: Path) -> Comparison:
    try:
        return comparator_of(task, home)
    except ValueError as error:
        raise LookupError(f"The task's comparator cannot be used: {error}.") from None


def _fix(
    task: Task,
    student: StudentTrained,
    model: Judged,
    store: Store,
    frozen: list[dict[str, Any]],
    compare: Comparison,
) -> dict[str, Any]:
    """What later looks must not choose again: the threshold, the share of alpha, and who is to be compared with."""
    select = {row["example_id"] for row in frozen if row["split"] == "select"}
    rows = [
        row
        for row in store.examples(task.key, until=student.dataset.cutoff).to_pylist()
        if row["example_id"] in select and (not task.labels or row["output"] in task.labels)
    ]
    if not rows:
        raise LookupError(f"None of the select cases of {student.student_id} is in the store any more; train anew.")
    unbiased = [row for row in rows if row["sample"] in ("full", "audit")]
    rows = unbiased if len(unbiased) >= FEWEST_UNBIASED else rows
    said, cpu = model.answer(rows)
    confidence = np.array([float(value) for _, value in said])
    agrees = np.array([compare.same(label, row["output"]) for (label, _), row in zip(said, rows, strict=True)])
    # Half of what is promised, by a bound: a threshold whose losses on the few select cases were few by luck meets a
    # gate that it stands at the edge of, which takes thousands of cases to say nothing.
    chosen = choose_threshold(
        confidence, agrees, task.gate.epsilon / 2, selective=task.cascade.selective, delta=THRESHOLD_DOUBT
    )
    judged = store.evaluations(task.key).select(["student_id", "time"]).to_pylist()
    k, alpha = share(task.gate.alpha, ((row["student_id"], row["time"]) for row in judged), student.student_id)
    live = next((route.live for route in store.latest_routes() if route.task_key == task.key), None)
    return {
        # Confidence never exceeds 1: 1.01 serves nothing.
        "threshold": min(float(chosen.value), 1.01),
        "coverage": float(chosen.coverage),
        "risk": float(chosen.risk),
        "n_select": len(rows),
        "cpu_each": cpu / len(rows),
        "k": k,
        "alpha": alpha,
        "champion": live.model_dump(mode="json") if live is not None and _compares_with_champion(task) else None,
    }


def _compares_with_champion(task: Task) -> bool:
    return any(isinstance(one, Recall) and one.margin is not None for one in task.gate.conditions)


def replay(task: Task, student: StudentTrained, model: Judged, store: Store, request_ids: list[str]) -> dict[str, Any]:
    """Run the gated artefact on what it was asked in shadow; label and confidence must come out the same.

    Waits for the observer to have written those audits. Audits erased since then are not waited for for ever.
    """
    wanted, deadline = set(request_ids), time.monotonic() + REPLAY_WAIT_S
    while True:
        rows = [
            row
            for row in store.audits(task.key, student.student_id).to_pylist()
            if row["request_id"] in wanted and row["stage"] == "shadow" and row["student_output"] is not None
        ]
        if len(rows) >= len(wanted) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if len(rows) < 0.9 * len(wanted):
        raise RuntimeError(f"only {len(rows)} of {len(wanted)} shadow audits are in the store; is the observer up?")
    said, _ = model.answer(rows)
    different = [
        row["request_id"]
        for row, (output, confidence) in zip(rows, said, strict=True)
        if output != row["student_output"] or abs(confidence - row["student_confidence"]) > model.tolerance
    ]
    return {"n": len(rows), "different": different[:20], "n_different": len(different), "may_differ": model.may_differ}


def _metrics(outcomes: list[Outcome], threshold: float, facts: Facts) -> dict[str, float]:
    n = len(outcomes)
    metrics: dict[str, float] = {}
    if facts.teacher is not None and facts.teacher.n:
        metrics |= {"teacher_self_agreement": facts.teacher.agreements / facts.teacher.n}
        metrics |= {"teacher_repeats": float(facts.teacher.n)}
    if n == 0:
        return metrics
    served = [outcome for outcome in outcomes if outcome.served(threshold)]
    lost = sum(outcome.loss(threshold) for outcome in outcomes)
    metrics |= {
        "agreement": 1 - lost / n,
        "coverage": len(served) / n,
        "raw_agreement": sum(o.same() for o in outcomes) / n,
        "mean_confidence": sum(o.confidence for o in outcomes) / n,
        "threshold": threshold,
    }
    if served:
        metrics["selective_risk"] = lost / len(served)
    return metrics


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
