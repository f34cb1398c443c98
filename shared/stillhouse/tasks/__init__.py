"""Task declarations: what is asked, who teaches, who may learn, and what must hold."""

from stillhouse.tasks.budget import Budget
from stillhouse.tasks.cascade import Cascade
from stillhouse.tasks.data import Data
from stillhouse.tasks.declaration import Task
from stillhouse.tasks.gate import Gate
from stillhouse.tasks.loading import TaskFileError, load_task, load_tasks
from stillhouse.tasks.review import Review
from stillhouse.tasks.students import AnyStudent, Architecture, LanguageModel, StudentCandidate
from stillhouse.tasks.teachers import Adjudicator, AnthropicEndpoint, Endpoint, EscalationRule, Recording, Teacher
from stillhouse.tasks.watching import Audit, Drift

__all__ = [
    "Adjudicator",
    "AnthropicEndpoint",
    "AnyStudent",
    "Architecture",
    "Audit",
    "Budget",
    "Cascade",
    "Data",
    "Drift",
    "Endpoint",
    "EscalationRule",
    "Gate",
    "LanguageModel",
    "Recording",
    "Review",
    "StudentCandidate",
    "Task",
    "TaskFileError",
    "Teacher",
    "load_task",
    "load_tasks",
]
