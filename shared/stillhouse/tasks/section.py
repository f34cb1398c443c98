"""What every table of a task file has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Section(BaseModel):
    """Unknown keys are refused; a declaration never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
