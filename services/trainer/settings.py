"""What only the trainer is told."""

from __future__ import annotations

from pydantic import Field

from stillhouse.settings import Settings


class TrainerSettings(Settings):
    """`STILLHOUSE_...` as for every service, and the trainer's own keys."""

    trainer_lease_s: float = Field(default=15.0, gt=0, description="A dead worker's job is claimed again after it.")
    trainer_evaluate_s: float = Field(default=1.0, gt=0, description="Least time between two looks at one task.")
