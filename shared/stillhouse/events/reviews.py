"""What people say about recorded answers. All by reference: the text stays in the store, where it can be erased."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stillhouse.events._base import Event

ReviewReason = Literal[
    "random",  # drawn uniformly from an unbiased sample
    "policy",  # an always-escalate rule matched
    "suspect_label",  # people often correct the teacher where it says this label
    "disagreement",  # student and teacher differ
    "rare_class",  # the teacher rarely says this label
    "low_confidence",  # teacher or student was not sure
    "asked",  # somebody named the request
]
Drawn = Literal["random", "picked"]
ReviewVerdict = Literal["approve", "correct", "flag"]


class ReviewRequested(Event):
    """A recorded answer waits for a person. Its `id` is the case's id."""

    TYPE: ClassVar[str] = "review.requested"

    example_id: str
    request_id: str
    input_sha256: str = Field(description="Of the normalised, redacted text.")
    reason: ReviewReason
    drawn: Drawn = Field(description="`random` measures; `picked` teaches only.")
    share: float | None = Field(default=None, gt=0.0, le=1.0, description="Probability of a random draw.")
    student_id: str | None = Field(default=None, description="The student that disagreed or was not sure.")


class _Reviewed(Event):
    """What both events about a person's verdict say."""

    case_id: str
    example_id: str
    request_id: str
    reason: ReviewReason
    drawn: Drawn
    reviewer: str = Field(min_length=1, max_length=200)
    verdict: ReviewVerdict = Field(description="`flag`: this example must neither teach nor stand as an answer.")
    label: str | None = Field(default=None, max_length=1000, description="What is right; None where flagged.")
    previous_label: str = Field(description="What the teacher said.")
    minutes: float | None = Field(default=None, ge=0.0, le=1440.0, description="As the reviewer says, if at all.")


class ExampleReviewed(_Reviewed):
    """A person's verdict about an example; of several about one text the latest by `time` holds."""

    TYPE: ClassVar[str] = "example.reviewed"

    input_sha256: str = Field(description="Of the normalised, redacted text.")
    teacher_version: str = Field(default="", description="Whose answer was judged.")
    note: str = Field(default="", max_length=1000, description="Redacted.")

    @property
    def subject(self) -> str:
        """The example id."""
        return self.example_id


class ReviewResolved(_Reviewed):
    """A case of the review queue has its verdict."""

    TYPE: ClassVar[str] = "review.resolved"

    review_id: str = Field(description="Id of the `example.reviewed` that holds it.")
