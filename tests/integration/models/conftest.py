"""A student artefact small enough to make in each test."""

from __future__ import annotations

from functools import partial

import pytest

from tests.integration.students import write_student


@pytest.fixture
def make_student(tmp_path):
    """Writes a student and gives its reference."""
    return partial(write_student, tmp_path)
