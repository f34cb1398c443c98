"""Composes the router: the only place that builds concrete objects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from services.router.answering import Answering
from services.router.control import RouteController
from services.router.done import DoneMarks
from services.router.edge.app import Edge
from services.router.edge.server import serve
from services.router.handlers import build_router
from services.router.intake import GROUP, SOURCE, Intake
from services.router.parked import GROUP as PARKED
from services.router.parked import Parking
from services.router.routes import RouteTable
from services.router.settings import RouterSettings
from services.router.spending import Spending
from services.router.students import Students
from stillhouse.bus import (
    commit_as_member_only,
    consumer_options,
    consumption_of,
    make_broker,
    producer_options,
    publish,
)
from stillhouse.bus.connection import write_to_declared_topics_only
from stillhouse.bus.consumption import Consumption
from stillhouse.bus.metering import Meter
from stillhouse.bus.recorded import until_recorded
from stillhouse.bus.redis import connect_redis
from stillhouse.bus.service import Service
from stillhouse.bus.spending import Accounts, ledger_of
from stillhouse.events import Event, InferenceCompleted, InferenceRequested, RouteChanged, StudentRoute, now
from stillhouse.models.artefact import verify
from stillhouse.models.causal_lm import ARCHITECTURE
from stillhouse.models.chat.completion import ChatModel, OnText
from stillhouse.models.chat.teachers import chat_teacher
from stillhouse.models.port import Model
from stillhouse.models.rerank_teacher import EndpointTeacher
from stillhouse.models.vllm.served import ServedStudent
from stillhouse.models.worker_model import WorkerModel
from stillhouse.settings import Kafka
from stillhouse.store import Store
from stillhouse.tasks import RerankEndpoint, load_tasks
from stillhouse.tasks.comparators import comparisons_of

START_S: Final = 30.0  # a request of the edge waits so long for a router that is starting


def build_app(settings: RouterSettings, teachers: Mapping[str, Model | ChatModel] | None = None) -> Service:
    """The router as a service that has not started yet. `teachers` by task key; None: the tasks' own, in workers.

    Raises `TaskFileError` and `ModelError`.
    """
    tasks = load_tasks(settings.tasks)
    fitted = {key: task for key, task in tasks.items() if teachers is None and task.kind == "classify"}
    workers = {key: WorkerModel.teacher(task, settings.home) for key, task in fitted.items()}
    ranking = {key: task for key, task in tasks.items() if teachers is None and task.kind == "rerank"}
    workers |= {
        key: WorkerModel.reranker(task) for key, task in ranking.items() if task.teacher.kind == "cross_encoder"
    }
    rankers = {
        key: EndpointTeacher(task.teacher) for key, task in ranking.items() if isinstance(task.teacher, RerankEndpoint)
    }
    chats = {key: chat_teacher(task) for key, task in tasks.items() if teachers is None and task.kind == "generate"}

    def student(route: StudentRoute, of: RouteChanged) -> WorkerModel | ServedStudent:
        price = tasks[of.task_key].usd_per_cpu_hour(now()) if of.task_key in tasks else 0.0
        if route.architecture == ARCHITECTURE:
            folder = verify(route.artefact)
            return ServedStudent(folder, settings.home, usd_per_cpu_hour=price, url=settings.serving_url)
        return WorkerModel.student(route.artefact, route.student_id, price)

    redis = connect_redis(settings.redis)
    students = Students(student)
    table = RouteTable(settings.kafka, students, {key: task.audit.pi for key, task in tasks.items()})
    broker = make_broker(settings, "router")
    say = partial(publish, broker, source=SOURCE)
    controller = RouteController(tasks, table, say)
    broker.context.set_global("controller", controller)
    broker.include_router(build_router(settings.kafka))
    store = Store(settings.home / "store")
    queues = any(task.budget.limits.any and task.budget.at_limit == "queue" for task in tasks.values())
    spending = Spending(tasks, Accounts(redis, ledger_of(store), partial(until_recorded, settings.kafka)))
    models: Mapping[str, Model | ChatModel] = teachers if teachers is not None else {**workers, **rankers, **chats}
    meter = Meter("routing", tasks)
    comparisons = comparisons_of(tasks, settings.home)
    answering = Answering(tasks, models, table.get, students.get, spending, meter, comparisons, students.starting)
    marks, bound = DoneMarks(redis), settings.router_max_in_flight
    intake = _Intake(settings.kafka, answering, marks, bound, consumption_of(broker))
    port = settings.router_edge_port
    edge = Edge(tasks, intake.ask, settings.router_edge_keys, bound)

    async def start_teachers() -> None:
        await asyncio.gather(*(worker.start() for worker in workers.values()))

    async def close_models() -> None:
        ending = (
            *(worker.close() for worker in workers.values()),
            *(ranker.close() for ranker in rankers.values()),
            *(chat.close() for chat in chats.values()),
        )
        await asyncio.gather(students.close(), *ending)

    return Service(
        name="router",
        broker=broker,
        background=[
            intake.run,
            partial(table.guard, say),
            spending.settle_regularly,
            *([partial(serve, edge.app(), settings.router_edge_host, port)] if port is not None else []),
            *([partial(_unpark, settings.kafka, say, spending)] if queues else []),
            partial(meter.report_regularly, say),
        ],
        on_start=[table.start, partial(controller.restore, store), start_teachers],
        on_stop=[partial(intake.drain, settings.router_grace_s), table.stop, close_models, redis.aclose],
        ready={f"teacher of {key}": partial(_runs, worker) for key, worker in workers.items()},
    )


class _Intake:
    """The intake with its own consumer and producer, which begin with it and end with it."""

    def __init__(
        self, kafka: Kafka, answering: Answering, marks: DoneMarks, max_in_flight: int, consumption: Consumption
    ) -> None:
        self._kafka, self._answering, self._marks, self._bound = kafka, answering, marks, max_in_flight
        self._consumption = consumption
        self._intake: Intake | None = None
        self._ready = asyncio.Event()

    async def run(self) -> None:
        self._producer = AIOKafkaProducer(**producer_options(self._kafka))
        write_to_declared_topics_only(self._producer, self._kafka)
        self._consumer = AIOKafkaConsumer(group_id=GROUP, **consumer_options(self._kafka, urgent=True))
        await self._producer.start()
        await self._consumer.start()
        commit_as_member_only(self._consumer)
        await self._marks.enter()
        self._intake = Intake(
            self._consumer, self._producer, self._answering.answer, self._marks, self._bound, self._consumption
        )
        self._ready.set()
        await self._intake.run()

    async def ask(
        self, request: InferenceRequested, traceparent: str, on_text: OnText | None, again: bool
    ) -> InferenceCompleted:
        """The answer to a request of the edge. Raises `OSError` while the router starts, and what `Intake` raises."""
        try:
            async with asyncio.timeout(START_S):
                await self._ready.wait()
        except TimeoutError:
            raise OSError("the router is starting") from None
        assert self._intake is not None
        return await self._intake.ask(request, traceparent, on_text, again=again)

    async def drain(self, grace: float) -> None:
        if self._intake is not None:
            try:
                await self._intake.drain(grace)
            finally:
                await self._consumer.stop()
                await self._producer.stop()
                await self._marks.leave()


async def _unpark(kafka: Kafka, say: Callable[[Event], Awaitable[None]], spending: Spending) -> None:
    consumer = AIOKafkaConsumer(group_id=PARKED, **consumer_options(kafka))
    await consumer.start()
    commit_as_member_only(consumer)
    try:
        await Parking(consumer, say, spending.may_pay).run()
    finally:
        await consumer.stop()


async def _runs(worker: WorkerModel) -> bool:
    return worker.pid is not None
