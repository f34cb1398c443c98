"""Stage tests in a real Valkey: no audit counts twice, not even when two consumers race or Redis is lost."""

from __future__ import annotations

import asyncio
from random import Random

from services.validator.stage_states import StageStates
from services.validator.stages import Canary, canary_step
from stillhouse.events import InferenceAudited
from stillhouse.quality.eprocess import AgreementTest
from stillhouse.tasks import Gate
from tests.unit.validator.audits import audit

NAME = ("default/intents", "s1", "canary")


def step(state: Canary, item) -> Canary:
    return canary_step(state, item.loss, item.would_serve)


def counted(state: Canary) -> int:
    return AgreementTest.from_dict(state.test).n


async def fresh() -> tuple[Canary, list[str]]:
    return Canary.start(Gate(), 1e-9), []


async def test_audits_delivered_again_are_counted_once(redis) -> None:
    states, audits = StageStates(redis), [audit(n) for n in range(30)]
    await states.add(Canary, NAME, audits[:20], step, fresh)
    state = await states.add(Canary, NAME, [*audits[10:], audits[29]], step, fresh)
    assert counted(state) == 30


async def test_racing_consumers_lose_and_repeat_nothing(redis) -> None:
    states, audits = StageStates(redis), [audit(n) for n in range(60)]
    batches = [audits[start : start + 12] for start in range(0, 60, 6)]
    await asyncio.gather(*(states.add(Canary, NAME, batch, step, fresh) for batch in batches))
    state = await states.add(Canary, NAME, [], step, fresh)
    assert counted(state) == 60


async def test_a_lost_state_is_rebuilt_with_what_it_had_seen(redis) -> None:
    states, audits = StageStates(redis), [audit(n) for n in range(30)]
    stored = audits[:25]

    async def rebuild() -> tuple[Canary, list[str]]:
        state, _ = await fresh()
        for item in stored:
            state = step(state, item)
        return state, [item.id for item in stored]

    await states.add(Canary, NAME, audits[:20], step, fresh)
    await redis.flushall()
    # The batch overlaps what the store has already.
    state = await states.add(Canary, NAME, audits[20:], step, rebuild)
    assert counted(state) == 30


async def test_announcing_and_retiring(redis) -> None:
    states = StageStates(redis)
    await states.announced(Canary, NAME)
    assert await redis.dbsize() == 0
    await states.add(Canary, NAME, [audit(1)], step, fresh)
    await states.announced(Canary, NAME)
    assert (await states.add(Canary, NAME, [], step, fresh)).announced
    await states.retire(NAME[0], NAME[1])
    assert await redis.dbsize() == 0


async def test_whatever_is_delivered_how_often_each_audit_counts_once(redis) -> None:
    for seed in range(25):
        random, name = Random(seed), ("default/intents", f"s{seed}", "canary")
        audits = [audit(n, loss=random.random() < 0.3) for n in range(random.randint(1, 40))]
        states, state = StageStates(redis), Canary.start(Gate(), 1e-9)
        delivered: dict[str, InferenceAudited] = {}

        async def rebuild(known=delivered) -> tuple[Canary, list[str]]:
            rebuilt = Canary.start(Gate(), 1e-9)
            for one in known.values():
                rebuilt = step(rebuilt, one)
            return rebuilt, list(known)

        while len(delivered) < len(audits):
            batch = random.choices(audits, k=random.randint(1, 15))
            if random.random() < 0.2:
                await states.retire(*name[:2])  # as if Redis was lost; the store has what was delivered
            state = await states.add(Canary, name, batch, step, rebuild)
            delivered.update((one.id, one) for one in batch)
        test = AgreementTest.from_dict(state.test)
        assert (test.n, test.agreements) == (len(audits), sum(not one.loss for one in audits))
