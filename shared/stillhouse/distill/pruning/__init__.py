"""Language models made smaller by leaving out what matters least: whole layers, neurons, attention heads."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)
