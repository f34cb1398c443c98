"""What a student learns from how the teacher places texts relative to each other, one file for each method."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)
