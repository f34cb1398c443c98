"""Task declarations: what is asked, who teaches, who may learn, and what must hold."""

from stillhouse.tasks.declaration import (
    Adjudicator,
    Architecture,
    Audit,
    Budget,
    Drift,
    EscalationRule,
    Gate,
    StudentCandidate,
    Task,
    Teacher,
)
from stillhouse.tasks.loading import TaskFileError, load_task, load_tasks

__all__ = [
    "Adjudicator",
    "Architecture",
    "Audit",
    "Budget",
    "Drift",
    "EscalationRule",
    "Gate",
    "StudentCandidate",
    "Task",
    "TaskFileError",
    "Teacher",
    "load_task",
    "load_tasks",
]
