"""Several routers in one group: spread, and members that join, leave and die under load."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from stillhouse.embedded.ports import free_port
from stillhouse.telemetry.names import IN_FLIGHT, REQUESTS
from tests.faults.llm import SlowLlm
from tests.faults.load import Load
from tests.faults.outside import recorded, unsound_store
from tests.faults.platform import Platform, copy_models, until
from tests.faults.world import write_tasks

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

SLOW_CALLS = 24


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llm():
    async with SlowLlm(free_port()).serving() as serving:
        yield serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(fitted, llm, tmp_path_factory):
    """A router and an observer; its own, for routers come and go."""
    folder = tmp_path_factory.mktemp("group")
    started = Platform(folder, write_tasks(folder / "tasks", llm.url, min_examples=1_000_000))
    copy_models(fitted, started.home)
    try:
        await started.start(("router", "observer"))
        yield started
    finally:
        await started.stop()


async def spread(platform: Platform, names: list[str]) -> list[float]:
    return [await platform.metric(name, REQUESTS) for name in names]


@pytest.mark.parametrize("members", [2, 4])
async def test_a_group_of_routers_shares_the_load_and_loses_nothing(platform, llm, members) -> None:
    llm.asked.clear()
    names = ["router", *(f"router-{n}" for n in range(2, members + 1))]
    async with Load.of(platform.settings, members) as load, asyncio.timeout(1800):
        async with load.running(15):
            for name in names[1:]:  # join, under load
                if name not in platform.members:
                    platform.add("router", name)
            await platform.ready(*names)
            begun = await spread(platform, names)

            async def all_answer() -> bool:
                return all(now > before for now, before in zip(await spread(platform, names), begun, strict=True))

            await until(all_answer, "every router answers")
        await load.settled()

        # Evenly: by partition, of which each has its share, so that about as many requests are each one's.
        before = await spread(platform, names)
        await load.send(240)
        await load.settled()
        shares = [now - then for now, then in zip(await spread(platform, names), before, strict=True)]
        assert sum(shares) == 240
        assert min(shares) > 0.5 * 240 / members

        # One dies for good with calls in flight, as the others have: theirs are not begun again.
        llm.release.clear()
        for number in range(SLOW_CALLS):
            await load.send(1, "slow", input=f"where is parcel {number}")
        await until(lambda: len(llm.asked) == SLOW_CALLS, "slow calls in flight")
        held = await platform.metric(names[-1], IN_FLIGHT)
        async with load.running(15):
            await platform.kill(names[-1], back=False)
            mark = len(load.sent)
            await until(lambda: len(load.sent) > mark + 100, "load on the others")
            await until(lambda: sum(llm.asked.values()) >= SLOW_CALLS + held, "the dead one's calls are made again")
        llm.release.set()
        await load.settled()
        assert 0 < held < SLOW_CALLS
        assert sum(llm.asked.values()) == SLOW_CALLS + held
        assert max(llm.asked.values()) <= 2

        if members > 2:  # one leaves for good
            async with load.running(15):
                assert (await platform.terminate(names[-2]))[0] == 0
                mark = len(load.sent)
                await until(lambda: len(load.sent) > mark + 50, "load on the others")
            await load.settled()
        assert len(load.answered()) == len(load.sent)
        await recorded(platform, load)
        assert await unsound_store(platform, load) == []
    for name in names[1:]:
        if platform.members[name].pid is not None:
            await platform.terminate(name)
        del platform.members[name]
