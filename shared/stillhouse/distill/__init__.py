"""The distillation engine: what students learn from, how they learn, what they are, and how they become artefacts.

Importing this package, or `data`, imports neither torch nor ONNX Runtime; the other modules belong in a training job.
"""
