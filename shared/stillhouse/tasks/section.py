"""What every table of a task file has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown keys are refused; a declaration never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
