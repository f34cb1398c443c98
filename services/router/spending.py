"""Asks before every call of a teacher whether the task may pay for it. Tasks without a limit are not asked about.

Where Redis is away, or was emptied and the ledger is behind, nobody knows what is left: then no teacher is called for a
task with a limit (fails closed). A call that was sent and brought no answer in time counts in full: its provider may
have billed it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import structlog
from redis.exceptions import RedisError

from services.router.together import Together
from stillhouse.bus.spending import Accounts, Call, Refused
from stillhouse.economics.limits import PERIODS, end_of
from stillhouse.models.port import ModelError
from stillhouse.tasks import Task
from stillhouse.telemetry.metrics import metrics

LEASE_MARGIN_S: Final = 30.0  # beyond the teacher's deadline; a reservation that is older is nobody's
SETTLE_S: Final = 1.0  # between attempts to settle what could not be settled at once
SHOW_S: Final = 5.0
UNKNOWN_S: Final = 2.0  # Redis was away: nobody is asked again, and nothing waits for it, for so long

A = TypeVar("A")
log = structlog.get_logger()


class BudgetSpent(Exception):
    """The call may not be made; the message says why. `until`: when to try again."""

    def __init__(self, message: str, until: datetime) -> None:
        super().__init__(message)
        self.until = until


class Spending:
    """What stands between the router and every call that a task with a limit has to pay for."""

    def __init__(
        self, tasks: Mapping[str, Task], accounts: Accounts, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._tasks = {key: task for key, task in tasks.items() if task.budget.limits.any}
        self._accounts = accounts
        self._clock = clock
        self._reserving = Together(accounts.reserve)
        self._settling = Together(self._settle)
        self._owed: list[tuple[Call, float]] = []
        self._spent: dict[tuple[str, bool], tuple[datetime, str]] = {}  # (task, audit) -> until when, and what is said
        for key, task in self._tasks.items():
            for period in PERIODS:
                if (usd := task.budget.limits.usd(period)) is not None:
                    metrics().budget_limit_usd.labels(key, period).set(usd)
                    metrics().budget_refused.labels(key, "limit")

    async def pay(
        self, task: Task, request_id: str, cost: Callable[[A], float], ask: Callable[[], Awaitable[A]], *, audit: bool
    ) -> A:
        """What `ask` gives, paid for at `cost` of it. Raises `BudgetSpent`, and what `ask` raises.

        `audit`: the call may use what the task keeps back for audits.
        """
        if task.key not in self._tasks:
            return await ask()
        self._check(task, audit)
        call = Call(
            task_key=task.key,
            request_id=request_id,
            token=uuid.uuid4().hex,
            usd=task.most_usd(self._clock()),
            limits=task.budget.limits,
            lease_s=task.teacher.timeout_s + LEASE_MARGIN_S,
            audit=audit,
        )
        try:
            refused = await self._reserving.add(call)
        except (RedisError, OSError) as error:
            log.warning("budget_unknown", task=task.key, error=f"{type(error).__name__}: {error}")
            said = (
                f"what is left of the budget of {task.key} cannot be known while Redis is away or the ledger is behind "
                "the log; try again later."
            )
            metrics().budget_refused.labels(task.key, "unknown").inc()
            until = self._clock() + timedelta(seconds=UNKNOWN_S)
            self._spent[task.key, audit] = (until, said)
            raise BudgetSpent(said, until) from None
        if refused is not None:
            self._refuse(task, refused, audit)
        usd = call.usd
        try:
            answer = await ask()
            usd = cost(answer)
        except ModelError:
            usd = 0.0
            raise
        finally:
            self._owed.append((call, usd))  # first of all: whoever is cancelled here settles no more
        await self._settle_owed()
        return answer

    def now(self) -> datetime:
        """The time by which prices and limits hold."""
        return self._clock()

    def refusal(self, task: Task) -> str | None:
        """Why nothing of `task` is answered now; None: it is, or nobody has found out yet that its limit is reached."""
        if task.budget.at_limit != "reject":
            return None
        found = self._reached(task.key)
        return found[1] if found is not None else None

    def may_pay(self, task_key: str) -> bool:
        """Whether a call for `task_key` may be tried; a limit that was reached is only left behind with its period."""
        return self._reached(task_key) is None

    async def settle_regularly(self) -> None:
        """Settle what Redis was away for, and show the accounts, until cancelled."""
        shown = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await self._settle_owed()
            if loop.time() - shown >= SHOW_S:
                shown = loop.time()
                await self._show()
            await asyncio.sleep(SETTLE_S)

    def _reached(self, task_key: str) -> tuple[datetime, str] | None:
        """What was found out in this period; where there is nothing left for audits, there is nothing for all else."""
        found = (self._spent.get((task_key, audit)) for audit in (False, True))
        return next((one for one in found if one is not None and self._clock() < one[0]), None)

    def _check(self, task: Task, audit: bool) -> None:
        found = self._spent.get((task.key, audit))
        if found is not None and self._clock() < found[0]:
            metrics().budget_refused.labels(task.key, "limit").inc()
            raise BudgetSpent(found[1], found[0])

    def _refuse(self, task: Task, refused: Refused, audit: bool) -> None:
        metrics().budget_refused.labels(task.key, "limit").inc()
        until, limit = end_of(refused.period, self._clock()), task.budget.limits.usd(refused.period)
        assert limit is not None
        kept = "" if audit or not task.budget.limits.kept_back else ", but for what is kept back for audits"
        said = (
            f"the budget of {task.key} ({limit:g} USD a {refused.period}) is spent{kept}; "
            f"it begins anew at {until:%Y-%m-%d %H:%M} UTC."
        )
        # What others have set aside may be given back; what is spent stays so until the period ends.
        share = 1.0 if audit else 1.0 - task.budget.limits.kept_back
        if refused.spent_usd + task.most_usd(self._clock()) > limit * share:
            if self._spent.get((task.key, audit)) != (until, said):
                log.warning("budget_spent", task=task.key, period=refused.period, limit_usd=limit, audits=audit)
            self._spent[task.key, audit] = (until, said)
        raise BudgetSpent(said, until)

    async def _settle_owed(self) -> None:
        owed, self._owed = self._owed, []
        if not owed:
            return
        try:
            await asyncio.gather(*(self._settling.add(one) for one in owed))
        except (RedisError, OSError) as error:  # settled twice is settled once
            self._owed += owed
            log.warning("budget_not_settled", calls=len(self._owed), error=f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            self._owed += owed
            raise

    async def _settle(self, owed: Sequence[tuple[Call, float]]) -> Sequence[None]:
        await self._accounts.settle([call for call, _ in owed], [usd for _, usd in owed])
        return [None] * len(owed)

    async def _show(self) -> None:
        for key, task in self._tasks.items():
            try:
                standing = await self._accounts.look(key, task.teacher.timeout_s + LEASE_MARGIN_S)
            except (RedisError, OSError):
                continue  # said by whoever had to pay
            for period in PERIODS:
                if task.budget.limits.usd(period) is not None:
                    metrics().budget_spent_usd.labels(key, period).set(standing.spent_usd[period])
                    metrics().budget_reserved_usd.labels(key, period).set(standing.reserved_usd[period])
