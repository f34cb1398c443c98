"""What each task has spent and set aside, in Redis: reserve before a call, settle after it. Hard limits hold.

A call is reserved under its request's id, at the most that it can cost. Nothing is reserved beyond a limit, whoever
asks and however many at once: one script decides, and Redis runs one at a time. After the call it is settled at what it
cost, once, however often that is said. So what was spent and what is set aside never exceed the limit together.

A router that dies between the two leaves a reservation. The next attempt at the same request takes it over; where none
comes, it is given back after its lease. The call it was made for may have cost its price at the provider's all the
same: that much, one batch in flight, is what a crash can cost beyond the limit.

A period is named by the date, and what was spent in one is kept for good: a clock that jumps back finds its day as
spent as it was. Leases run on the same clock; one that is off by more than a lease, in either direction, is over.
Redis emptied: the sums are read from the ledger again, once it holds everything that is in the log; until then nobody
knows what is left, and no call is made. What was in flight when Redis was emptied is one batch more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from stillhouse.economics.limits import NANOS, PERIODS, Limits, Period, begin_of, end_of, name_of, nanos

if TYPE_CHECKING:
    from stillhouse.store import Store

PAID_S: Final = 60 * 60  # a settlement said again after a lost connection is known for so long
CHARGED_S: Final = 40 * 24 * 60 * 60  # an overhead said again: longer than its topic keeps it

# KEYS: account, open reservations. A reservation is "<token>:<nanos>:<made, ms>:<day>:<month>" under its request's id.
_COMMON: Final = """
local account, open = KEYS[1], KEYS[2]
local function add(field, nanos) redis.call('HINCRBY', account, field, string.format('%.0f', nanos)) end
local function amount(field) return tonumber(redis.call('HGET', account, field) or '0') end
local function parts(held) return string.match(held, '^([^:]*):([^:]*):([^:]*):([^:]*):([^:]*)$') end
local function give_back(request, held)
  local _, nanos, _, day, month = parts(held)
  redis.call('HDEL', open, request)
  add('reserved:' .. day, -tonumber(nanos))
  add('reserved:' .. month, -tonumber(nanos))
end
local function sweep(now, lease)
  local entries = redis.call('HGETALL', open)
  for i = 1, #entries, 2 do
    local _, _, made = parts(entries[i + 1])
    if math.abs(now - tonumber(made)) > lease then give_back(entries[i], entries[i + 1]) end
  end
end
local function known(day, month)
  return redis.call('HEXISTS', account, 'spent:' .. day) + redis.call('HEXISTS', account, 'spent:' .. month) == 2
end
"""

# ARGV: request, token, nanos, now (ms), lease (ms), day, month, limit of the day, of the month (-1: none).
_RESERVE: Final = (
    _COMMON
    + """
local request, token, nanos, now, lease = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local day, month = ARGV[6], ARGV[7]
if not known(day, month) then return {'unknown'} end
local held = redis.call('HGET', open, request)
if held then
  if parts(held) == token then return {'granted'} end
  give_back(request, held)
end
local function full()
  for i, period in ipairs({day, month}) do
    local limit = tonumber(ARGV[7 + i])
    if limit >= 0 and amount('spent:' .. period) + amount('reserved:' .. period) + nanos > limit then return i end
  end
end
if full() then sweep(now, lease) end
local which = full()
if which then
  local period = ({day, month})[which]
  return {'refused', which, redis.call('HGET', account, 'spent:' .. period)}
end
redis.call('HSET', open, request, table.concat({token, ARGV[3], ARGV[4], day, month}, ':'))
add('reserved:' .. day, nanos)
add('reserved:' .. month, nanos)
return {'granted'}
"""
)

# KEYS[3]: the mark of this settlement. ARGV: request, token, nanos, day, month, seconds that the mark is kept.
_SETTLE: Final = (
    _COMMON
    + """
local request, token, nanos, day, month = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
if redis.call('EXISTS', KEYS[3]) == 1 then return {'again'} end
local held = redis.call('HGET', open, request)
if held then
  local by, _, _, held_day, held_month = parts(held)
  if by == token then day, month = held_day, held_month else held = nil end
end
if not known(day, month) then return {'unknown', day, month} end
if held then give_back(request, held) end
redis.call('SET', KEYS[3], '', 'EX', ARGV[6])
add('spent:' .. day, nanos)
add('spent:' .. month, nanos)
return {'settled'}
"""
)

# ARGV: now (ms), lease (ms), day, month.
_LOOK: Final = (
    _COMMON
    + """
sweep(tonumber(ARGV[1]), tonumber(ARGV[2]))
if not known(ARGV[3], ARGV[4]) then return {'unknown'} end
return {
  'known',
  redis.call('HGET', account, 'spent:' .. ARGV[3]), redis.call('HGET', account, 'spent:' .. ARGV[4]),
  redis.call('HGET', account, 'reserved:' .. ARGV[3]) or '0',
  redis.call('HGET', account, 'reserved:' .. ARGV[4]) or '0',
}
"""
)

Ledger = Callable[[str, datetime, datetime], Awaitable[float]]
CaughtUp = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that costs at most `usd`. `token` names this attempt at it, whatever becomes of it."""

    task_key: str
    request_id: str
    token: str
    usd: float
    limits: Limits
    lease_s: float
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a call may not be made: it does not fit into this period's limit. `spent_usd`: what is spent for good."""

    period: Period
    spent_usd: float


@dataclass(frozen=True, slots=True)
class Standing:
    """An account at a moment, USD by period."""

    spent_usd: dict[Period, float]
    reserved_usd: dict[Period, float]


class Accounts:
    """The accounts of all tasks.

    Every method raises `redis.RedisError` and `OSError` where Redis is away, or nobody can know what was spent.
    """

    def __init__(
        self,
        redis: Redis,
        ledger: Ledger,
        caught_up: CaughtUp,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`ledger` gives what a task spent between two moments: asked where Redis knows nothing of a period.

        `caught_up` waits until the ledger misses nothing, or raises `OSError`: asked where Redis knows nothing at all.
        """
        self._redis = redis
        self._ledger = ledger
        self._caught_up = caught_up
        self._clock = clock
        self._sha: dict[str, str] = {}

    async def reserve(self, calls: Sequence[Call]) -> list[Refused | None]:
        """For each call: None where it may be made, else why not. Said again with the same token, it is one."""

        def asked(call: Call) -> tuple[list[str], list[object]]:
            now = self._clock()
            bounds = (call.limits.nanos(period, audit=call.audit) for period in PERIODS)
            arguments: list[object] = [call.request_id, call.token, nanos(call.usd), _ms(now), int(1000 * call.lease_s)]
            arguments += [name_of(period, now) for period in PERIODS]
            return _keys(call.task_key), arguments + [-1 if bound is None else bound for bound in bounds]

        said = await self._run(_RESERVE, calls, asked, [call.task_key for call in calls])
        return [_refusal(answer) for answer in said]

    async def settle(self, calls: Sequence[Call], usd: Sequence[float]) -> None:
        """The calls cost this much, each. Said again, it changes nothing."""
        await self._settle([(c.task_key, c.request_id, c.token, u, PAID_S) for c, u in zip(calls, usd, strict=True)])

    async def charge(self, task_key: str, cause_id: str, usd: float) -> None:
        """Something cost this much that nobody could refuse any more. The same cause is charged once."""
        await self._settle([(task_key, "", cause_id, usd, CHARGED_S)])

    async def look(self, task_key: str, lease_s: float) -> Standing:
        """What is spent and set aside now; reservations whose lease is over are given back."""

        def asked(key: str) -> tuple[list[str], list[object]]:
            now = self._clock()
            return _keys(key), [_ms(now), int(1000 * lease_s), *(name_of(period, now) for period in PERIODS)]

        [said] = await self._run(_LOOK, [task_key], asked, [task_key])
        usd = [int(value) / NANOS for value in said[1:]]
        return Standing(dict(zip(PERIODS, usd[:2], strict=True)), dict(zip(PERIODS, usd[2:], strict=True)))

    async def _settle(self, items: Sequence[tuple[str, str, str, float, int]]) -> None:
        def asked(item: tuple[str, str, str, float, int]) -> tuple[list[str], list[object]]:
            key, request_id, token, usd, kept_s = item
            now = self._clock()
            periods = [name_of(period, now) for period in PERIODS]
            mark = f"stillhouse:budget:{{{key}}}:paid:{token}"
            return [*_keys(key), mark], [request_id, token, nanos(usd), *periods, kept_s]

        await self._run(_SETTLE, items, asked, [item[0] for item in items])

    async def _run(
        self,
        script: str,
        items: Sequence[Any],
        asked: Callable[[Any], tuple[list[str], list[object]]],
        of: Sequence[str],
    ) -> list[list[Any]]:
        """What the script says to each item; accounts that it does not know are opened first."""
        answers: list[list[Any] | None] = [None] * len(items)
        waiting = list(range(len(items)))
        while waiting:
            said = await self._together(script, [asked(items[i]) for i in waiting])
            unknown = {}
            for i, answer in zip(waiting, said, strict=True):
                if answer[0] == b"unknown":
                    unknown[of[i]] = answer
                else:
                    answers[i] = answer
            for key, answer in unknown.items():
                await self._open(key, answer[1].decode() if len(answer) > 1 else None)
            waiting = [i for i in waiting if answers[i] is None]
        return [answer for answer in answers if answer is not None]

    async def _together(self, script: str, calls: Sequence[tuple[list[str], list[object]]]) -> list[list[Any]]:
        if script not in self._sha:
            self._sha[script] = await self._redis.script_load(script)
        while True:
            pipeline = self._redis.pipeline(transaction=False)
            for keys, arguments in calls:
                pipeline.evalsha(self._sha[script], len(keys), *keys, *(str(argument) for argument in arguments))
            try:
                return list(await pipeline.execute())
            except NoScriptError:  # Redis was restarted; each script can be run again
                await self._redis.script_load(script)

    async def _open(self, task_key: str, day: str | None) -> None:
        """Begin the periods of now (or of `day`) with what the ledger knows of them."""
        at = self._clock() if day is None else datetime.fromisoformat(day).replace(tzinfo=UTC)
        account = _keys(task_key)[0]
        if not await self._redis.exists(account):  # new, or lost: not just a new day
            await self._caught_up()
        for period in PERIODS:
            field = f"spent:{name_of(period, at)}"
            if not await self._redis.hexists(account, field):  # a month is read once, not every day
                usd = await self._ledger(task_key, begin_of(period, at), end_of(period, at))
                await self._redis.hsetnx(account, field, str(nanos(usd)))


def ledger_of(store: Store) -> Ledger:
    """What the ledger of `store` knows; it is some seconds behind."""

    async def spent(task_key: str, since: datetime, until: datetime) -> float:
        return await asyncio.to_thread(store.spent, task_key, since, until)

    return spent


def _keys(task_key: str) -> list[str]:
    # In braces: a Redis cluster keeps the keys of one task together.
    return [f"stillhouse:budget:{{{task_key}}}", f"stillhouse:budget:{{{task_key}}}:open"]


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _refusal(said: Sequence[Any]) -> Refused | None:
    return None if said[0] == b"granted" else Refused(PERIODS[int(said[1]) - 1], int(said[2]) / NANOS)
