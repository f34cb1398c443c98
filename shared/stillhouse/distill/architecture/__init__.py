"""What a model costs and where, and which student architectures fit a target: `analyze` and `design`."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)
