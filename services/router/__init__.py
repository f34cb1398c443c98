"""The router: answers every request once, by the model that the task's route names."""
