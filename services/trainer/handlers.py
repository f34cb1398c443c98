"""What the trainer listens to: one short function per event."""

from __future__ import annotations

from typing import Annotated

from faststream import AckPolicy, Context
from faststream.kafka import KafkaMessage, KafkaRouter

from services.trainer.training import Training
from stillhouse.bus import decode_batch, subscriber_options
from stillhouse.events import (
    CostIncurred,
    DriftDetected,
    ExampleRecorded,
    GateFailed,
    GateUndecided,
    RouteChanged,
    TrainingRequested,
)
from stillhouse.settings import Kafka

Trainer = Annotated[Training, Context("training")]


async def on_examples(message: KafkaMessage, training: Trainer) -> None:
    """New examples only mark their tasks; the evaluation loop counts them."""
    for event in await decode_batch(message, ExampleRecorded):
        training.mark(event.task_key)


async def on_costs(message: KafkaMessage, training: Trainer) -> None:
    """Overheads count towards limits as calls do."""
    for event in await decode_batch(message, CostIncurred):
        await training.charge(event)


async def on_training_requested(event: TrainingRequested, training: Trainer) -> None:
    """Somebody asks for a student now."""
    await training.take(event)


async def on_drift(event: DriftDetected, training: Trainer) -> None:
    """The live student is out: collect, then train anew."""
    await training.take(event)


async def on_gate_failed(event: GateFailed, training: Trainer) -> None:
    """The next rung of the ladder, or more examples."""
    await training.take(event)


async def on_gate_undecided(event: GateUndecided, training: Trainer) -> None:
    """As failed, where it is final; else the gate still waits for cases."""
    await training.take(event)


async def on_route_changed(event: RouteChanged, training: Trainer) -> None:
    """Who serves now, and what an operator decided."""
    await training.take(event)


def build_router(kafka: Kafka) -> KafkaRouter:
    """The subscriptions, acknowledged after the effect."""
    router = KafkaRouter()
    options = {**subscriber_options(kafka), "ack_policy": AckPolicy.NACK_ON_ERROR}
    router.subscriber(ExampleRecorded.TYPE, group_id="trainer.examples", batch=True, max_records=500, **options)(
        on_examples
    )
    router.subscriber(CostIncurred.TYPE, group_id="trainer.costs", batch=True, max_records=500, **options)(on_costs)
    for topic, handler in (
        (TrainingRequested.TYPE, on_training_requested),
        (DriftDetected.TYPE, on_drift),
        (GateFailed.TYPE, on_gate_failed),
        (GateUndecided.TYPE, on_gate_undecided),
        (RouteChanged.TYPE, on_route_changed),
    ):
        router.subscriber(topic, group_id=f"trainer.{topic}", **options)(handler)
    return router
