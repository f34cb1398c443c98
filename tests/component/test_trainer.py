"""The composed trainer behind an in-memory broker: events in, decisions out."""

from __future__ import annotations

from faststream.kafka import TestKafkaBroker

from services.trainer.app import build_app
from services.trainer.policy import Plan
from services.trainer.settings import TrainerSettings
from services.trainer.states import OUTCOME_FILE
from services.trainer.training import SOURCE
from stillhouse.bus import publish
from stillhouse.bus.jobs import JobQueue, write_json
from stillhouse.bus.redis import connect_redis
from stillhouse.events import BudgetEvaluated, ExampleRecorded, TrainingRequested
from tests.unit.trainer.tasks import drift, gate_failed, route, trained


async def test_events_reach_the_state_and_a_new_decision_is_published_once(service_environment) -> None:
    service = build_app(TrainerSettings())
    said: list[BudgetEvaluated] = []

    @service.broker.subscriber(BudgetEvaluated.TYPE, group_id="test")
    async def hear(event: BudgetEvaluated) -> None:
        said.append(event)

    async with TestKafkaBroker(service.broker):
        training = service.broker.context.resolve("training")
        [task] = training.tasks.values()
        await training.evaluate(task)
        await training.evaluate(task)
        assert [event.strategy for event in said] == ["collecting"]

        await training.take(trained("s1", 1))
        for event in (route(1, 2, live="s1"), drift("s1", 3)):
            await publish(service.broker, event, source=SOURCE)
            await publish(service.broker, event, source=SOURCE)
            await training.evaluate(task)
        assert [event.strategy for event in said] == ["collecting", "distilled", "fallback_teacher"]

        await training.take(trained("s2", 4))
        await publish(service.broker, gate_failed("s2", 5), source=SOURCE)
        asked = TrainingRequested(task="intents", requested_by="me", reason="r")
        await publish(service.broker, asked, source=SOURCE)
        state = await training.state(task)
        assert state.forced is not None
        assert state.forced.cause_id == asked.id
        assert state.judging is None
    for stop in service.on_stop:
        await stop()


async def test_examples_only_mark_their_tasks_and_unknown_tasks_are_passed_over(service_environment) -> None:
    service = build_app(TrainerSettings())
    async with TestKafkaBroker(service.broker):
        training = service.broker.context.resolve("training")
        training.dirty.clear()
        for task in ("intents", "unknown"):
            event = ExampleRecorded(
                task=task, example_id="e", request_id="r", input_sha256="0", sample="full", teacher_version="t"
            )
            await publish(service.broker, event, source=SOURCE)
        assert training.dirty == {"default/intents"}
        assert all([await check() for check in service.ready.values()])
    for stop in service.on_stop:
        await stop()


async def test_a_job_that_redis_lost_sight_of_is_queued_again_and_its_end_reaches_the_task(service_environment) -> None:
    service = build_app(TrainerSettings())
    async with TestKafkaBroker(service.broker):
        training = service.broker.context.resolve("training")
        redis = connect_redis(TrainerSettings().redis)
        queue = JobQueue(redis, "training")
        [task] = training.tasks.values()
        await training._enqueue(task, await training.state(task), Plan("job", 0, "first"))
        # The state names the job, and Redis went away before the queue had it.
        await redis.delete(*await redis.keys("stillhouse:{jobs:training}:*"))
        await training.evaluate(task)
        job = await queue.claim("w", 30)
        assert job is not None
        assert job.job_id == "job"

        # A worker published the end, and died before the task's state knew.
        ended = trained("s1", 1)
        outcome = {"task_key": task.key, "type": ended.TYPE, "event": ended.model_dump(mode="json"), "at": 0.0}
        write_json(service_environment / "home" / "jobs" / "job" / OUTCOME_FILE, outcome)
        await training.run(job)
        state = await training.state(task)
        assert (state.job_id, state.judging) == (None, "s1")
        assert await queue.state("job") == "done"
        await redis.aclose()
    for stop in service.on_stop:
        await stop()
