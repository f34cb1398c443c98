"""Label Studio: tasks with predictions out, the JSON export with annotations in.

`config` is the labelling configuration that belongs to them. A case is known by `case_id` in a task's data, because
Label Studio numbers tasks itself. Skipped tasks say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from stillhouse.review.queue import Case, Said
from stillhouse.review.times import time_of


def config(labels: Sequence[str]) -> str:
    """The labelling configuration of a project for these cases."""
    choices = "".join(f"\n    <Choice value={quoteattr(label)}/>" for label in labels)
    return f"""<View>
  <Text name="text" value="$text"/>
  <Choices name="label" toName="text" choice="single">{choices}
  </Choices>
  <Choices name="flag" toName="text" choice="multiple">
    <Choice value="flag"/>
  </Choices>
  <TextArea name="note" toName="text" maxSubmissions="1"/>
</View>
"""


def dump(cases: Sequence[Case], *, blind: bool) -> str:
    """The cases as tasks; the teacher's answer is a prediction."""
    tasks = []
    for case in cases:
        told = {"text": case.text, "case_id": case.case_id, "task": f"{case.tenant}/{case.task}", "reason": case.reason}
        task: dict[str, Any] = {"data": told}
        if not blind:
            choice = {"id": "label", "from_name": "label", "to_name": "text", "type": "choices"}
            result = choice | {"value": {"choices": [case.teacher_output]}}
            prediction = {"model_version": case.teacher_version, "score": case.confidence, "result": [result]}
            task["predictions"] = [prediction]
        tasks.append(task)
    return json.dumps(tasks, ensure_ascii=False, indent=1)


def load(tasks: Sequence[Any]) -> list[Said]:
    """What people said, one for each annotation. Raises `ValueError` naming the task."""
    found = []
    for number, task in enumerate(tasks, start=1):
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(data.get("case_id"), str):
            raise ValueError(f"task {number} has no `case_id` in its data")
        for annotation in task.get("annotations") or ():
            if annotation.get("was_cancelled"):
                continue
            values = {result.get("from_name"): result.get("value") or {} for result in annotation.get("result") or ()}
            flagged = bool((values.get("flag") or {}).get("choices"))
            chosen = (values.get("label") or {}).get("choices") or []
            if not flagged and len(chosen) != 1:
                continue
            seconds = annotation.get("lead_time")
            found.append(
                Said(
                    case_id=data["case_id"],
                    label=None if flagged else str(chosen[0]),
                    verdict="flag" if flagged else None,
                    reviewer=f"label-studio:{_who(annotation.get('completed_by'))}",
                    minutes=min(1440.0, float(seconds) / 60) if isinstance(seconds, int | float) else None,
                    note="\n".join((values.get("note") or {}).get("text") or ()),
                    time=time_of(annotation.get("updated_at") or annotation.get("created_at")),
                )
            )
    return found


def _who(completed_by: Any) -> str:
    """A user's number, or with some exports the user as an object."""
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("id"))
    return str(completed_by)
