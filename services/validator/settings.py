"""What only the validator is told."""

from __future__ import annotations

from pydantic import Field

from stillhouse.settings import Settings


class ValidatorSettings(Settings):
    """`STILLHOUSE_...` as for every service, and the validator's own keys."""

    validator_lease_s: float = Field(default=15.0, gt=0, description="A dead worker's gate is claimed again after it.")
    validator_check_s: float = Field(default=2.0, gt=0, description="How often open gates look for new cases.")
    validator_review_s: float = Field(default=10.0, gt=0, description="How often cases for people are looked for.")
