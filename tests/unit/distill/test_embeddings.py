"""What a smaller encoder's vectors should have of a larger one's: closed forms, gradients, shapes."""

from __future__ import annotations

import pytest
import torch

from stillhouse.distill.embeddings.objectives import similarity_loss, vector_loss
from stillhouse.models.port import ModelError


def vectors(rows, width, seed=0) -> torch.Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_vector_loss_is_one_less_the_mean_cosine_and_half_the_squared_distance_of_unit_vectors() -> None:
    student, teacher = vectors(7, 5), vectors(7, 5, seed=1)
    unit, other = (torch.nn.functional.normalize(each, dim=-1) for each in (student, teacher))
    expected = (unit - other).square().sum(dim=-1).mean() / 2
    assert vector_loss(student, teacher).item() == pytest.approx(expected.item())
    assert vector_loss(3 * teacher, teacher).item() == pytest.approx(0.0, abs=1e-12)


def test_the_similarity_loss_does_not_see_rotations_and_takes_other_widths() -> None:
    teacher = vectors(6, 5)
    rotation, _ = torch.linalg.qr(vectors(5, 5, seed=2))
    assert similarity_loss(teacher @ rotation, teacher).item() == pytest.approx(0.0, abs=1e-12)
    wider = torch.cat([teacher, torch.zeros(6, 3, dtype=torch.float64)], dim=1)
    assert similarity_loss(wider, teacher).item() == pytest.approx(0.0, abs=1e-12)
    one, other = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert similarity_loss(one, other).item() == pytest.approx(1.0)


@pytest.mark.parametrize("loss", [vector_loss, similarity_loss])
def test_gradients_are_right(loss) -> None:
    student = vectors(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda said: loss(said, vectors(4, 3, seed=1)), (student,))


def test_shapes_that_do_not_fit_are_refused_with_the_shapes() -> None:
    with pytest.raises(ModelError, match=r"sentence vectors are \[4, 3\], the teacher's \[4, 5\]"):
        vector_loss(vectors(4, 3), vectors(4, 5))
    with pytest.raises(ModelError, match=r"\[4, 4\], the teacher's \[5, 5\]"):
        similarity_loss(vectors(4, 3), vectors(5, 3))
