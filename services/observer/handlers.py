"""What the observer listens to: one short function per event."""

from __future__ import annotations

from typing import Annotated

from faststream import AckPolicy, Context
from faststream.kafka import KafkaMessage, KafkaRouter

from services.observer.recorder import FULL_BATCH, Recorder
from stillhouse.bus import decode_batch, header, subscriber_options
from stillhouse.bus.handling import records_of
from stillhouse.events import (
    BudgetEvaluated,
    CostIncurred,
    DriftDetected,
    ExampleReviewed,
    InferenceAudited,
    InferenceCompleted,
    RouteChanged,
    StudentTrained,
    TrainingFailed,
)
from stillhouse.settings import Kafka

Records = Annotated[Recorder, Context("recorder")]


async def on_completed(message: KafkaMessage, recorder: Records) -> None:
    """Teacher answers become examples; every request is in the ledger."""
    await recorder.completed(await decode_batch(message, InferenceCompleted), traces_of(message))


async def on_audited(message: KafkaMessage, recorder: Records) -> None:
    """Both answers are kept, and what the second one cost."""
    await recorder.audited(await decode_batch(message, InferenceAudited), traces_of(message))


async def on_costs(message: KafkaMessage, recorder: Records) -> None:
    """Overheads are in the ledger."""
    await recorder.costs(await decode_batch(message, CostIncurred))


async def on_reviews(message: KafkaMessage, recorder: Records) -> None:
    """What people said about examples corrects the store."""
    await recorder.reviews(await decode_batch(message, ExampleReviewed))


async def on_routes(message: KafkaMessage, recorder: Records) -> None:
    """Every version of a route is kept."""
    await recorder.routes(await decode_batch(message, RouteChanged))


async def on_budget(message: KafkaMessage, recorder: Records) -> None:
    """What the trainer decided to spend."""
    await recorder.decisions(await decode_batch(message, BudgetEvaluated))


async def on_drift(message: KafkaMessage, recorder: Records) -> None:
    """Why a student was taken out."""
    await recorder.decisions(await decode_batch(message, DriftDetected))


async def on_trained(message: KafkaMessage, recorder: Records) -> None:
    """What a training gave."""
    await recorder.decisions(await decode_batch(message, StudentTrained))


async def on_training_failed(message: KafkaMessage, recorder: Records) -> None:
    """Why it gave nothing."""
    await recorder.decisions(await decode_batch(message, TrainingFailed))


def traces_of(message: KafkaMessage) -> dict[str, str]:
    """Event id to traceparent, where a batch's records carry both: a batch belongs to no single trace."""
    pairs = (
        (header(record.headers, "ce_id"), header(record.headers, "traceparent"))
        for record in records_of(message.raw_message)
    )
    return {event_id: traceparent for event_id, traceparent in pairs if event_id and traceparent}


def build_router(kafka: Kafka) -> KafkaRouter:
    """The subscriptions, in batches, acknowledged after the effect."""
    router = KafkaRouter()
    options = {**subscriber_options(kafka), "ack_policy": AckPolicy.NACK_ON_ERROR}
    for topic, handler in (
        (InferenceCompleted.TYPE, on_completed),
        (InferenceAudited.TYPE, on_audited),
        (CostIncurred.TYPE, on_costs),
        (RouteChanged.TYPE, on_routes),
        (ExampleReviewed.TYPE, on_reviews),
        (BudgetEvaluated.TYPE, on_budget),
        (DriftDetected.TYPE, on_drift),
        (StudentTrained.TYPE, on_trained),
        (TrainingFailed.TYPE, on_training_failed),
    ):
        router.subscriber(topic, group_id=f"observer.{topic}", batch=True, max_records=FULL_BATCH, **options)(handler)
    return router
