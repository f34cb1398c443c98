"""Language models that learn to write what their teacher writes."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)
