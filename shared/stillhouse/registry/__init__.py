"""Students and where they come from: training runs, evaluations, model versions and aliases in MLflow."""

from stillhouse.registry.students import (
    Alias,
    TrainingRecord,
    log_evaluation,
    log_sweep_trial,
    log_training_run,
    mark_erased,
    model_name,
    register_student,
    set_alias,
    training_record,
)

__all__ = [
    "Alias",
    "TrainingRecord",
    "log_evaluation",
    "log_sweep_trial",
    "log_training_run",
    "mark_erased",
    "model_name",
    "register_student",
    "set_alias",
    "training_record",
]
