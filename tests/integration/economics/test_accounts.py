"""Hard limits against a real Valkey: many at once, said twice, killed in between, on a clock that jumps."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.bus.spending import Accounts, Call, ledger_of
from stillhouse.economics.limits import Limits, begin_of, end_of, name_of, nanos
from stillhouse.store import LedgerRow, Store
from tests.integration.economics.conftest import NOON, Clock, nothing_to_wait_for

ROOT = Path(__file__).parents[3]
TASK = "default/intents"
DAY_5 = Limits(usd_per_day=5.0)


async def nothing_spent(task_key: str, since: datetime, until: datetime) -> float:
    return 0.0


def call(number: int, usd: float = 1.0, token: str = "", limits: Limits = DAY_5, **changes) -> Call:
    fields = {"task_key": TASK, "request_id": f"r{number}", "token": token or f"t{number}", "usd": usd}
    return Call(**({**fields, "limits": limits, "lease_s": 60.0} | changes))


async def standing(accounts: Accounts) -> tuple[float, float]:
    look = await accounts.look(TASK, 60.0)
    return look.spent_usd["day"], look.reserved_usd["day"]


def test_of_many_routers_at_once_exactly_what_fits_is_granted(run) -> None:
    async def work(redis):
        routers = [Accounts(redis, nothing_spent, nothing_to_wait_for, Clock()) for _ in range(4)]
        asked = [routers[n % 4].reserve([call(n, 0.03)]) for n in range(400)]
        granted = sum(said == [None] for said in await asyncio.gather(*asked))
        return granted, await standing(routers[0])

    granted, (spent, reserved) = run(work)
    assert granted == 166  # 166 * 0.03 = 4.98
    assert (spent, reserved) == (0.0, pytest.approx(4.98))


def test_settling_frees_what_was_not_needed_and_a_refusal_says_what_is_spent(run) -> None:
    async def work(redis):
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, Clock())
        assert await accounts.reserve([call(n) for n in range(5)]) == [None] * 5
        [full] = await accounts.reserve([call(9)])
        await accounts.settle([call(n) for n in range(5)], [0.5] * 5)
        return full, await accounts.reserve([call(9)]), await standing(accounts)

    full, again, after = run(work)
    assert (full.period, full.spent_usd) == ("day", 0.0)
    assert again == [None]
    assert after == (2.5, 1.0)


def test_what_is_said_twice_happens_once(run) -> None:
    async def work(redis):
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, Clock())
        for _ in range(3):
            assert await accounts.reserve([call(1)]) == [None]
        reserved = await standing(accounts)
        for _ in range(3):
            await accounts.settle([call(1)], [0.75])
        for _ in range(3):
            await accounts.charge(TASK, "job-1", 2.0)
        return reserved, await standing(accounts)

    reserved, after = run(work)
    assert reserved == (0.0, 1.0)
    assert after == (2.75, 0.0)


def test_the_next_attempt_takes_a_dead_routers_reservation_over(run) -> None:
    async def work(redis):
        dead, alive = (Accounts(redis, nothing_spent, nothing_to_wait_for, Clock()) for _ in range(2))
        assert await dead.reserve([call(n, token=f"dead-{n}") for n in range(5)]) == [None] * 5
        assert await alive.reserve([call(0, token="alive")]) == [None]  # though nothing else fits
        assert await alive.reserve([call(7)]) != [None]
        await alive.settle([call(0, token="alive")], [1.0])
        after = await standing(alive)
        # It was not dead: its call was made too, and cost what it cost.
        await dead.settle([call(0, token="dead-0")], [1.0])
        return after, await standing(alive)

    assert run(work) == ((1.0, 4.0), (2.0, 4.0))


def test_a_lease_that_is_over_is_given_back_once_and_a_late_settlement_still_counts(run) -> None:
    async def work(redis):
        clock = Clock()
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, clock)
        await accounts.reserve([call(n) for n in range(5)])
        clock.forward(seconds=61)
        assert await accounts.reserve([call(9)]) == [None]
        swept = await standing(accounts)
        await accounts.settle([call(0)], [1.0])
        return swept, await standing(accounts)

    assert run(work) == ((0.0, 1.0), (1.0, 1.0))


def test_kill_between_reserve_and_settle_leaves_the_account_exact(server, run) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, sys
        from redis.asyncio import Redis
        from stillhouse.bus.spending import Accounts
        from tests.integration.economics.conftest import nothing_to_wait_for
        from tests.integration.economics.test_accounts import call, nothing_spent

        async def main():
            accounts = Accounts(Redis.from_url({server[0]!r}), nothing_spent, nothing_to_wait_for)
            calls = [call(n) for n in range(4)]
            assert await accounts.reserve(calls) == [None] * 4
            await accounts.settle(calls[:1], [1.0])
            print("held", flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    )

    async def work(redis):
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'shared'}:{ROOT}"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=environment
        )
        try:
            assert await process.stdout.readline() == b"held\n"
        finally:
            process.kill()
            await process.wait()
        clock = Clock(datetime.now(UTC))
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, clock)
        crashed = await standing(accounts)
        # One request is read again and answered; nobody comes back to the other two.
        assert await accounts.reserve([call(1, token="again")]) == [None]
        await accounts.settle([call(1, token="again")], [1.0])
        taken_over = await standing(accounts)
        look = await accounts.look(TASK, 0.0)  # their leases are over
        return crashed, taken_over, (look.spent_usd["day"], look.reserved_usd["day"])

    assert run(work) == ((1.0, 3.0), (2.0, 2.0), (2.0, 0.0))


def test_a_clock_that_jumps_opens_nothing_that_was_spent(run) -> None:
    async def work(redis):
        clock = Clock()
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, clock)
        limits = Limits(usd_per_day=5.0, usd_per_month=8.0)
        calls = [call(n, limits=limits) for n in range(20)]

        async def spend(*numbers: int) -> int:
            granted = [n for n in numbers if await accounts.reserve([calls[n]]) == [None]]
            await accounts.settle([calls[n] for n in granted], [1.0] * len(granted))
            return len(granted)

        today = await spend(*range(6))
        clock.forward(days=1)
        tomorrow = await spend(*range(6, 12))
        clock.forward(days=-1)
        back = await spend(12, 13)
        clock.forward(days=400)
        far = await spend(14, 15, 16)
        clock.forward(days=-400)
        return today, tomorrow, back, far, await spend(17)

    # A day holds 5, the month 8; neither is ever opened again.
    assert run(work) == (5, 3, 0, 3, 0)


def test_a_jump_back_does_not_hold_reservations_for_ever(run) -> None:
    async def work(redis):
        clock = Clock()
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, clock)
        await accounts.reserve([call(n) for n in range(5)])
        clock.forward(hours=-2)
        return await accounts.reserve([call(9)])

    assert run(work) == [None]


def test_what_is_set_aside_before_midnight_is_charged_to_its_day(run) -> None:
    async def work(redis):
        clock = Clock(NOON.replace(hour=23, minute=59, second=59))
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, clock)
        await accounts.reserve([call(1)])
        clock.forward(seconds=2)
        await accounts.settle([call(1)], [1.0])
        today = await standing(accounts)
        clock.forward(seconds=-2)
        return today, await standing(accounts)

    assert run(work) == ((0.0, 0.0), (1.0, 0.0))


def test_audits_may_spend_what_is_kept_back(run) -> None:
    async def work(redis):
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, Clock())
        limits = Limits(usd_per_day=5.0, kept_back=0.2)
        served = await accounts.reserve([call(n, limits=limits) for n in range(6)])
        audits = await accounts.reserve([call(n, limits=limits, audit=True) for n in range(10, 13)])
        return [said is None for said in served], [said is None for said in audits]

    assert run(work) == ([True] * 4 + [False] * 2, [True, False, False])


def test_an_emptied_redis_knows_from_the_ledger_what_is_spent(run, tmp_path) -> None:
    store = Store(tmp_path / "store")
    clock = Clock()
    rows = [(NOON, 2.0, "serve"), (NOON - timedelta(days=3), 4.0, "serve"), (NOON, 9.0, "observe")]
    rows += [(NOON - timedelta(days=30), 7.0, "serve"), (NOON, 0.5, "gate")]
    store.append_ledger(
        [
            LedgerRow(f"e{n}", time, "default", "intents", "request", f"r{n}", usd, purpose=purpose)
            for n, (time, usd, purpose) in enumerate(rows)
        ]
    )

    async def work(redis):
        accounts = Accounts(redis, ledger_of(store), nothing_to_wait_for, clock)
        first = await accounts.look(TASK, 60)
        await accounts.reserve([call(1)])
        await redis.flushall()
        await redis.script_flush()
        await accounts.settle([call(1)], [1.0])
        return first, await accounts.look(TASK, 60)

    first, after = run(work)
    assert first.spent_usd == {"day": 2.5, "month": 6.5}
    assert (after.spent_usd["day"], after.reserved_usd["day"]) == (3.5, 0.0)


def test_what_the_ledger_misses_is_waited_for_where_all_was_lost_and_only_there(run) -> None:
    asked, behind, clock = [], [True], Clock()

    async def caught_up() -> None:
        asked.append(clock())
        if behind[0]:
            raise TimeoutError("the ledger is behind")

    async def work(redis):
        accounts = Accounts(redis, nothing_spent, caught_up, clock)
        with pytest.raises(TimeoutError):
            await accounts.reserve([call(1)])
        assert not await redis.keys("*budget*"), "nothing is begun that is not known"
        behind[0] = False
        assert await accounts.reserve([call(1)]) == [None]
        assert len(asked) == 2
        clock.forward(days=1)
        assert await accounts.reserve([call(2)]) == [None]
        assert len(asked) == 2, "a new day is no loss"
        await redis.flushall()
        await accounts.settle([call(2)], [1.0])
        assert len(asked) == 3

    run(work)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "settle", "crash", "clock", "charge"]),
        st.integers(0, 7),
        st.integers(0, 2),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 2**32))
def test_whatever_happens_the_limit_holds_and_every_call_is_paid_once(server, steps, seed) -> None:
    """Against a model that knows every call that was made."""
    url, on_loop = server
    random_ = random.Random(seed)

    async def work() -> None:
        from redis.asyncio import Redis

        redis = Redis.from_url(url)
        await redis.flushall()
        clock = Clock()
        accounts = Accounts(redis, nothing_spent, nothing_to_wait_for, clock)
        open_: dict[int, Call] = {}
        made: dict[str, list[float]] = {}  # day -> what was settled or charged in it
        opened: dict[str, str] = {}  # token -> its day
        try:
            for number, (what, n, variant) in enumerate(steps):
                day = name_of("day", clock())
                if what == "reserve" and n not in open_:
                    asked = call(n, random_.choice([0.25, 1.0, 1.5]), token=f"{number}")
                    if await accounts.reserve([asked]) == [None]:
                        open_[n], opened[asked.token] = asked, day
                elif what == "settle" and n in open_:
                    settled = open_.pop(n)
                    usd = settled.usd * random_.choice([0.0, 0.5, 1.0])
                    for _ in range(1 + variant):
                        await accounts.settle([settled], [usd])
                    made.setdefault(opened[settled.token], []).append(usd)
                elif what == "crash" and n in open_:
                    again = call(n, open_[n].usd, token=f"again-{number}")
                    if await accounts.reserve([again]) == [None]:
                        open_[n], opened[again.token] = again, day
                    else:  # another day has no room for it
                        del open_[n]
                elif what == "clock":
                    clock.now = NOON + timedelta(days=variant, seconds=n)
                elif what == "charge" and variant == 0:
                    left = 5.0 - sum(made.get(day, [])) - sum(c.usd for c in open_.values())
                    if left >= 1.0:
                        await accounts.charge(TASK, f"cause-{number}", 0.5)
                        made.setdefault(day, []).append(0.5)
                day = name_of("day", clock())
                look = await accounts.look(TASK, 10 * 86_400)
                held = [c.usd for c in open_.values() if opened[c.token] == day]
                assert nanos(look.spent_usd["day"]) == nanos(sum(made.get(day, [])))
                assert nanos(look.reserved_usd["day"]) == nanos(sum(held))
                assert look.spent_usd["day"] + look.reserved_usd["day"] <= 5.0 + 1e-9
        finally:
            await redis.aclose()

    on_loop(work())


@pytest.mark.parametrize("period", ["day", "month"])
def test_periods_follow_each_other(period) -> None:
    at = datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert begin_of(period, at) <= at < end_of(period, at)
    assert begin_of(period, end_of(period, at)) == end_of(period, at) == datetime(2027, 1, 1, tzinfo=UTC)
    east = at.astimezone(tz=datetime.now().astimezone().tzinfo)
    assert name_of(period, east) == name_of(period, at)
