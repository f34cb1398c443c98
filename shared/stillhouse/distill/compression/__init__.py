"""Checkpoints made smaller, in an environment of their own."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)
