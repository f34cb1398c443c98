"""A hard budget under load: routers killed with paid calls in flight, a Redis that forgets what was spent."""

from __future__ import annotations

import asyncio

import pytest_asyncio

from stillhouse.embedded.ports import free_port
from tests.faults.llm import SlowLlm
from tests.faults.load import Load
from tests.faults.outside import PRICE, SLOW, ledger, recorded, unsound_store
from tests.faults.platform import Platform, copy_models, until
from tests.faults.world import write_tasks

CALLS = 30  # that the limit of a day pays for
KILLED = 4  # in flight when the router dies: what a crash may cost beyond the limit


@pytest_asyncio.fixture
async def llm():
    async with SlowLlm(free_port()).serving() as serving:
        yield serving


@pytest_asyncio.fixture
async def platform(fitted, llm, tmp_path):
    """Two routers and an observer; no more than `CALLS` calls of the slow teacher are paid for."""
    tasks = write_tasks(tmp_path / "tasks", llm.url)
    limit = f'[budget]\nusd_per_day = {CALLS * PRICE}\nkept_for_audits = 0.0\nat_limit = "reject"\n'
    file = tasks / "slow.toml"
    file.write_text(file.read_text().replace("[budget]\n", limit))
    started = Platform(tmp_path, tasks)
    copy_models(fitted, started.home)
    try:
        await started.start(("router", "observer"))
        started.add("router", "router-2")
        await started.ready()
        yield started
    finally:
        await started.stop()


async def test_nothing_is_spent_beyond_the_limit_whoever_dies(platform, llm) -> None:
    async with Load.of(platform.settings, 1) as load:
        begun = await load.send(10, "slow")
        await until(lambda: all(sent.answered for sent in begun), "calls within the limit")
        llm.release.clear()
        flying = await load.send(KILLED, "slow")
        await until(lambda: llm.asked.total() == 10 + KILLED, "calls in flight")
        await platform.kill("router")
        await platform.kill("router-2")
        llm.release.set()
        await until(lambda: all(sent.completed for sent in flying), "the calls of the dead, made again")
        await platform.flush_redis()  # some of what was spent is not in the ledger yet
        rest = await load.send(3 * CALLS, "slow")
        await load.settled()
        # Beyond the limit the teacher is not asked, however often: each gets the error, none waits for ever.
        await load.send(10, "slow")
        await load.settled()
        answered = load.answered()
        refused = [sent.completed.failure.code for sent in load.sent.values() if not sent.answered]
        assert len(answered) + len(refused) == 20 + KILLED + len(rest)
        assert set(refused) == {"budget"}
        await recorded(platform, load)
        assert await unsound_store(platform, load) == []
        spent = sum(
            row["usd"] for row in await asyncio.to_thread(ledger, platform) if row["task"] == SLOW.split("/")[1]
        )
        assert round(spent, 6) <= round(CALLS * PRICE, 6)
        assert CALLS - 2 <= len(answered) <= CALLS
        assert llm.asked.total() <= CALLS + KILLED
