"""What every relation needs: vectors of the same texts, and enough of them."""

from __future__ import annotations

from torch import Tensor

from stillhouse.distill.outputs import shape_of
from stillhouse.models.port import ModelError


def require_same_texts(student: Tensor, teacher: Tensor, fewest: int) -> None:
    """Raises `ModelError` where `student` [B, d] and `teacher` [B, e] are not of the same B >= `fewest` texts."""
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        raise ModelError(
            f"The student's vectors are {shape_of(student)}, the teacher's {shape_of(teacher)}; each text needs one "
            "of both."
        )
    if len(student) < fewest:
        raise ModelError(f"A relation of {fewest} texts needs as many in a batch; this one has {len(student)}.")
