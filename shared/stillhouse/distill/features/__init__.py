"""What a student learns from inside of the teacher: hidden states and attention, one file for each method."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)
