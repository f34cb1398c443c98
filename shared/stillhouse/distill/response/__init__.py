"""What a student learns from the teacher's answers alone, one file for each method. All in float32."""

from stillhouse.distill.lazy import modules_of

__getattr__ = modules_of(__name__)
