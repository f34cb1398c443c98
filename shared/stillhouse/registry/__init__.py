"""Students and where they come from: training runs, model versions and aliases in MLflow."""

from stillhouse.registry.students import Alias, log_training_run, mark_erased, model_name, register_student, set_alias

__all__ = ["Alias", "log_training_run", "mark_erased", "model_name", "register_student", "set_alias"]
