"""Students and where they come from: training runs, evaluations, model versions and aliases in MLflow."""

from stillhouse.registry.students import (
    Alias,
    log_evaluation,
    log_training_run,
    mark_erased,
    model_name,
    register_student,
    set_alias,
)

__all__ = [
    "Alias",
    "log_evaluation",
    "log_training_run",
    "mark_erased",
    "model_name",
    "register_student",
    "set_alias",
]
