"""Temperature scaling finds a known temperature, and stays finite where the student never errs."""

from __future__ import annotations

import numpy as np
import pytest

from stillhouse.distill.calibration import calibrate
from stillhouse.models.student import softmax


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_drew_the_labels_is_found(true) -> None:
    random = np.random.default_rng(3)
    logits = random.normal(size=(4000, 6)).astype(np.float32) * 3
    drawn = np.array([random.choice(6, p=row) for row in softmax(logits, true)])
    temperature, _ = calibrate(logits, drawn)
    assert temperature == pytest.approx(true, rel=0.1)


def test_agreeing_on_every_text_does_not_make_a_student_certain() -> None:
    logits = np.eye(4, dtype=np.float32)[np.arange(200) % 4]
    temperature, _ = calibrate(logits, np.arange(200) % 4)
    confidence = float(softmax(logits, temperature).max(axis=1).mean())
    assert 0.95 < confidence < 0.9999
