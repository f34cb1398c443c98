"""Sentence embeddings distilled from a larger encoder: smaller encoders whose vectors stand for the larger one's."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)
