"""What every event has in common: identity, time, owner, and ids that a repeated handler repeats."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

NAMESPACE = uuid.UUID("5f0c7d2e-8f0b-4d0e-9c62-2a1f6f0f7a10")

TENANT_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A fresh random id, for what nothing caused: a client's request, an operator's command."""
    return str(uuid.uuid4())


def follow_id(cause_id: str, event_type: str, subject: str) -> str:
    """The id of the event of `event_type` about `subject` that follows from `cause_id`.

    The same cause always gives the same id, so a handler that runs twice says the same thing twice.
    """
    return str(uuid.uuid5(NAMESPACE, f"{cause_id}\x00{event_type}\x00{subject}"))


class Value(BaseModel):
    """A part of an event: compared by content, never changed, tolerant of fields it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Event(Value):
    """A CloudEvent's data. `id` and `time` stand in the Kafka headers too (`ce_id`, `ce_time`)."""

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1

    id: str = Field(default_factory=new_id, min_length=1, max_length=200, description="Unique id of this event.")
    time: AwareDatetime = Field(default_factory=now, description="When it happened (RFC 3339, with offset).")
    tenant: str = Field(default="default", pattern=TENANT_PATTERN, description="Who owns the task.")
    task: str = Field(pattern=TENANT_PATTERN, description="The task's name.")

    @property
    def subject(self) -> str:
        """The CloudEvents subject: what the event is about. Task-level events: `<tenant>/<task>`."""
        return self.task_key

    @property
    def task_key(self) -> str:
        """`<tenant>/<task>`, the key of every task-level topic."""
        return f"{self.tenant}/{self.task}"

    @classmethod
    def cloudevent_type(cls) -> str:
        """For example `io.stillhouse.student.trained.v1`."""
        return f"io.stillhouse.{cls.TYPE}.v{cls.VERSION}"
