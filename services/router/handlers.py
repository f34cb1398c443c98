"""What the route controller listens to. Requests are read by the intake, not here."""

from __future__ import annotations

from typing import Annotated

from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from faststream import AckPolicy, Context
from faststream.kafka import KafkaRouter

from services.router.control import RouteController
from stillhouse.bus import subscriber_options
from stillhouse.events import (
    AuditRequested,
    DriftDetected,
    GateFailed,
    GatePassed,
    GateUndecided,
    RouteRequested,
    ThresholdRecalibrated,
)
from stillhouse.settings import Kafka

CONTROL = (GatePassed, GateFailed, GateUndecided, DriftDetected, RouteRequested, AuditRequested, ThresholdRecalibrated)


async def on_control(
    event: GatePassed
    | GateFailed
    | GateUndecided
    | DriftDetected
    | RouteRequested
    | AuditRequested
    | ThresholdRecalibrated,
    controller: Annotated[RouteController, Context("controller")],
) -> None:
    """Obey a verdict, an alarm, an operator, or a wish for more audits."""
    await controller.take(event)


def build_router(kafka: Kafka) -> KafkaRouter:
    """One subscription for all control topics, so that one member of the group decides everything.

    The range assignor gives partition 0 of every topic to the same member; round robin would spread them.
    """
    router = KafkaRouter()
    router.subscriber(
        *(event.TYPE for event in CONTROL),
        group_id="router.controller",
        partition_assignment_strategy=(RangePartitionAssignor,),
        ack_policy=AckPolicy.NACK_ON_ERROR,
        **subscriber_options(kafka),
    )(on_control)
    return router
