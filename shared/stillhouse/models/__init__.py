"""The Model port, and what stands behind it: teachers, students, and the worker processes that run them.

Importing this package, or any module of it, imports neither torch nor ONNX Runtime: those load where a model does, in a
worker process or a training job.
"""

from stillhouse.models.port import Model, ModelError, Prediction

__all__ = ["Model", "ModelError", "Prediction"]
