"""What the drift monitor listens to: one short function per event."""

from __future__ import annotations

from typing import Annotated

from faststream import AckPolicy, Context
from faststream.kafka import KafkaMessage, KafkaRouter

from services.drift_monitor.watching import Watching
from stillhouse.bus import decode_batch, subscriber_options
from stillhouse.events import InferenceAudited, InferenceCompleted, RouteChanged
from stillhouse.settings import Kafka


async def on_audits(message: KafkaMessage, watching: Annotated[Watching, Context("watching")]) -> None:
    """The tests of live students; an audit that is delivered again is counted once."""
    await watching.audited(await decode_batch(message, InferenceAudited))


async def on_completed(message: KafkaMessage, watching: Annotated[Watching, Context("watching")]) -> None:
    """What can be seen without labels; an answer that is delivered again is counted once."""
    await watching.completed(await decode_batch(message, InferenceCompleted))


async def on_route_changed(event: RouteChanged, watching: Annotated[Watching, Context("watching")]) -> None:
    """Who is live now; an alarm is over when that is another student."""
    await watching.routed(event)


def build_router(kafka: Kafka) -> KafkaRouter:
    """The subscriptions, acknowledged after the effect."""
    router = KafkaRouter()
    options = {**subscriber_options(kafka), "ack_policy": AckPolicy.NACK_ON_ERROR}
    router.subscriber(RouteChanged.TYPE, group_id="drift-monitor.routes", **options)(on_route_changed)
    router.subscriber(InferenceAudited.TYPE, group_id="drift-monitor.audits", batch=True, max_records=500, **options)(
        on_audits
    )
    router.subscriber(InferenceCompleted.TYPE, group_id="drift-monitor.inputs", batch=True, max_records=500, **options)(
        on_completed
    )
    return router
