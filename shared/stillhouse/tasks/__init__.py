"""Task declarations: what is asked, who teaches, who may learn, and what must hold."""

from stillhouse.tasks.budget import Budget
from stillhouse.tasks.cascade import Cascade
from stillhouse.tasks.data import Data
from stillhouse.tasks.declaration import Task
from stillhouse.tasks.gate import Gate
from stillhouse.tasks.loading import TaskFileError, load_task, load_tasks
from stillhouse.tasks.rerankers import RerankerStudent
from stillhouse.tasks.review import Review
from stillhouse.tasks.students import AnyStudent, Architecture, LanguageModel, StudentCandidate
from stillhouse.tasks.teachers import (
    Adjudicator,
    AnthropicEndpoint,
    CrossEncoder,
    Endpoint,
    EscalationRule,
    Recording,
    RerankEndpoint,
    Teacher,
)
from stillhouse.tasks.watching import Audit, Drift

__all__ = [
    "Adjudicator",
    "AnthropicEndpoint",
    "AnyStudent",
    "Architecture",
    "Audit",
    "Budget",
    "Cascade",
    "CrossEncoder",
    "Data",
    "Drift",
    "Endpoint",
    "EscalationRule",
    "Gate",
    "LanguageModel",
    "Recording",
    "RerankEndpoint",
    "RerankerStudent",
    "Review",
    "StudentCandidate",
    "Task",
    "TaskFileError",
    "Teacher",
    "load_task",
    "load_tasks",
]
