"""What the validator listens to: one short function per event."""

from __future__ import annotations

from typing import Annotated

from faststream import AckPolicy, Context
from faststream.kafka import KafkaMessage, KafkaRouter

from services.validator.gates import Gates
from services.validator.recalibrating import Recalibrating
from services.validator.reviewing import Reviewing
from services.validator.watching import Watching
from stillhouse.bus import decode_batch, subscriber_options
from stillhouse.events import InferenceAudited, ReviewResolved, RouteChanged, StudentTrained
from stillhouse.settings import Kafka


async def on_student_trained(event: StudentTrained, gates: Annotated[Gates, Context("gates")]) -> None:
    """Queue the gate of a newly trained student; the same event twice queues it once."""
    await gates.open_offline(event)


async def on_audits(
    message: KafkaMessage,
    watching: Annotated[Watching, Context("watching")],
    recalibrating: Annotated[Recalibrating, Context("recalibrating")],
) -> None:
    """Shadow and canary tests, where an audit that is delivered again is counted once; recalibration of live ones."""
    audits = await decode_batch(message, InferenceAudited)
    await watching.audited(audits)
    recalibrating.audited(audits)


async def on_route_changed(event: RouteChanged, watching: Annotated[Watching, Context("watching")]) -> None:
    """Tests of students that are no candidates any more end."""
    await watching.routed(event)


async def on_review_resolved(event: ReviewResolved, reviewing: Annotated[Reviewing, Context("reviewing")]) -> None:
    """What a person's time cost is booked once."""
    await reviewing.resolved(event)


def build_router(kafka: Kafka) -> KafkaRouter:
    """The subscriptions, acknowledged after the effect."""
    router = KafkaRouter()
    options = {**subscriber_options(kafka), "ack_policy": AckPolicy.NACK_ON_ERROR}
    router.subscriber(StudentTrained.TYPE, group_id="validator.gate", **options)(on_student_trained)
    router.subscriber(InferenceAudited.TYPE, group_id="validator.stages", batch=True, max_records=500, **options)(
        on_audits
    )
    router.subscriber(RouteChanged.TYPE, group_id="validator.routes", **options)(on_route_changed)
    router.subscriber(ReviewResolved.TYPE, group_id="validator.reviews", **options)(on_review_resolved)
    return router
