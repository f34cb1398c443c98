"""Router and observer killed and stopped under load; a slow teacher; a Redis that forgets; poison."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from aiokafka import AIOKafkaProducer

from stillhouse.bus import producer_options
from stillhouse.events import SERVICES, InferenceCompleted, InferenceRequested
from tests.faults.load import Load
from tests.faults.outside import ledger, read, recorded, unsound_store
from tests.faults.platform import until

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(autouse=True)
def released(llm):
    """Every test begins with a fast LLM, and leaves none waiting."""
    llm.delay_s = 0.0
    llm.release.set()
    llm.asked.clear()
    yield
    llm.release.set()


async def test_a_router_killed_with_slow_calls_in_flight_answers_everything_once_it_is_back(platform, llm) -> None:
    async with Load.of(platform.settings, 1) as load:
        llm.release.clear()
        slow = await load.send(6, "slow")
        fast = await load.send(30)
        await until(lambda: len(llm.asked) == 6, "slow calls in flight")
        await until(lambda: all(sent.answered for sent in fast), "fast answers")
        assert not any(sent.completed for sent in slow)
        await platform.kill("router")
        llm.release.set()
        async with load.running(10):
            await until(lambda: all(sent.answered for sent in slow), "slow answers")
        await load.settled()
        assert len(load.answered()) == len(load.sent)
        assert max(llm.asked.values()) <= 2  # once more for the killed call, and never again
        await recorded(platform, load)
        assert await unsound_store(platform, load) == []


async def test_an_observer_killed_between_effect_and_acknowledgement_stores_nothing_twice(platform) -> None:
    async with Load.of(platform.settings, 2) as load:
        await load.send(40)
        written = {*load.sent}

        def effect() -> bool:
            # The observer rests for a second after a batch's effect, and acknowledges then.
            return any(row["cause_id"] in written for row in ledger(platform))

        await until(lambda: asyncio.to_thread(effect), "the first batch in the store", every=0.02)
        await platform.kill("observer")
        await load.send(10)
        await load.settled()
        await recorded(platform, load)
        await platform.ready("observer")

        async def again() -> bool:
            return await platform.metric("observer", "stillhouse_duplicates_suppressed_total") > 0

        await until(again, "records that the killed observer had stored already")
        assert await unsound_store(platform, load) == []


async def test_sigterm_drains_within_15_s_and_loses_nothing(platform, llm) -> None:
    async with Load.of(platform.settings, 3) as load:
        llm.release.clear()
        stuck = await load.send(3, "slow")
        await load.send(20)
        await until(lambda: len(llm.asked) == 3, "calls in flight that will not end in time")
        ends = await asyncio.gather(*(platform.terminate(name, back=True) for name in SERVICES))
        assert [status for status, _ in ends] == [0] * len(SERVICES)
        assert max(seconds for _, seconds in ends) < 15
        llm.release.set()
        await load.settled()
        assert all(sent.answered for sent in stuck)
        await recorded(platform, load)
        assert await unsound_store(platform, load) == []
        await platform.ready()


async def test_sigterm_ends_every_service_within_15_s_though_the_broker_hangs(platform, llm) -> None:
    async with Load.of(platform.settings, 8) as load:
        llm.release.clear()
        stuck = await load.send(3, "slow")
        await until(lambda: len(llm.asked) == 3, "calls in flight that will not end in time")
        os.kill(platform.broker.pid, signal.SIGSTOP)
        try:
            ends = await asyncio.gather(*(platform.terminate(name, back=True) for name in SERVICES))

            async def starting() -> bool:
                checks = (await platform.health("trainer")).get("checks", {})
                return checks.get("started") is False  # type: ignore[attr-defined]

            await until(starting, "the next trainer starts")
            ends.append(await platform.terminate("trainer", back=True))
        finally:
            os.kill(platform.broker.pid, signal.SIGCONT)
        assert {status for status, _ in ends} == {0}
        assert max(seconds for _, seconds in ends) < 15
        llm.release.set()
        await load.settled()
        assert all(sent.answered for sent in stuck)
        await recorded(platform, load)
        assert await unsound_store(platform, load) == []
        await platform.ready()


async def test_a_redis_that_is_emptied_or_restarted_under_load_loses_no_request(platform) -> None:
    async with Load.of(platform.settings, 4) as load:
        async with load.running(15):
            await until(lambda: len(load.answered()) > 20, "answers")
            await platform.flush_redis()
            await until(lambda: len(load.answered()) > 60, "answers after the flush")
            await platform.restart_valkey()
            before = len(load.answered())
            await until(lambda: len(load.answered()) > before + 40, "answers after the restart")
        await load.settled()
        assert len(load.answered()) == len(load.sent)
        await recorded(platform, load)
        assert await unsound_store(platform, load) == []
        await platform.ready()


@pytest.mark.parametrize("topic", [InferenceRequested.TYPE, InferenceCompleted.TYPE])
async def test_a_poison_storm_stops_consumption_with_a_clear_sign_and_it_resumes_after(platform, topic) -> None:
    reader = "router" if topic == InferenceRequested.TYPE else "observer"
    letters = f'stillhouse_dead_letters_total{{reason="bad_record",service="{reader}"'
    before = await platform.metric(reader, letters)
    async with (
        Load.of(platform.settings, 5) as load,
        AIOKafkaProducer(**producer_options(platform.settings.kafka)) as p,
    ):
        storm = [await p.send(topic, b"{poison", key=str(n).encode()) for n in range(600)]
        await asyncio.gather(*storm)

        async def stopped() -> bool:
            checks = (await platform.health(reader)).get("checks", {})
            return checks.get("consuming") is False  # type: ignore[attr-defined]

        await until(stopped, "readiness says that it does not consume", every=0.05)
        assert await platform.metric(reader, f'stillhouse_consuming{{service="{reader}",topic="{topic}"}}') == 0
        assert "consumption_stopped" in platform.log(reader)
        await load.send(10)  # wait behind the poison, and are not lost
        await load.settled()
        await recorded(platform, load)
        await until(lambda: platform.is_ready(reader), "consuming again")
        assert await platform.metric(reader, letters) <= before + 600
        assert "consumption_resumed" in platform.log(reader)
        assert await unsound_store(platform, load) == []


async def test_a_restarted_broker_loses_nothing_in_silence_and_services_recover_without_help(platform, llm) -> None:
    async with Load.of(platform.settings, 6) as load:
        await load.send(30)
        await load.settled()
        await recorded(platform, load)
        pids = {name: member.pid for name, member in platform.members.items()}

        # Requests that only the old log holds: no router reads while it is stopped.
        os.kill(platform.members["router"].pid, signal.SIGSTOP)
        doomed = await load.send(5)
        await until(lambda: len(load._client._accepted) == 5, "accepted by the old broker")
        await platform.restart_broker()
        await until(lambda: all(sent.lost for sent in doomed), "their senders know")
        os.kill(platform.members["router"].pid, signal.SIGCONT)

        # Offsets begin at 0 again; what is new has offsets that the store has seen, and is no replay.
        await load.send(30)
        await load.settled()
        new = [sent for sent in load.sent.values() if not sent.lost]
        assert all(sent.answered for sent in new)
        assert len(new) == 60
        await recorded(platform, load)
        await platform.ready()
        assert {name: member.pid for name, member in platform.members.items()} == pids  # nobody had to be restarted
        said = {event.request_id for event in await read(platform.settings.kafka, InferenceCompleted.TYPE)}  # type: ignore[attr-defined]
        assert said <= {sent.request.id for sent in load.sent.values()}
        assert await unsound_store(platform, load) == []


async def test_a_second_router_takes_over_partitions_and_not_what_is_in_flight(platform, llm) -> None:
    async with Load.of(platform.settings, 7) as load:
        llm.release.clear()
        slow = await load.send(12, "slow")
        await until(lambda: len(llm.asked) == 12, "slow calls in flight")
        platform.add("router", "router-2")
        await platform.ready("router-2")

        async def shares() -> bool:
            return await platform.metric("router-2", "stillhouse_requests_total") > 0

        async with load.running(20):
            await until(shares, "the new router answers")
        # Its partitions came with slow requests, which it reads again.
        fast = await load.send(60)
        await until(lambda: all(sent.answered for sent in fast), "answers of both")
        llm.release.set()
        await load.settled()
        assert all(sent.answered for sent in slow)
        assert set(llm.asked.values()) == {1}  # nobody was asked again
        status, seconds = await platform.terminate("router-2")
        assert (status, seconds < 15) == (0, True)
        del platform.members["router-2"]
        await load.send(20)
        await load.settled()
        await recorded(platform, load)
        assert await unsound_store(platform, load) == []
