"""The one writer of routes, on a table and a log that only remember."""

from __future__ import annotations

from services.router.control import RouteController
from stillhouse.events import GateUndecided, RouteChanged
from tests.unit.router.test_controller import TASK, drift, follow, to_live, verdict


class FakeTable:
    def __init__(self) -> None:
        self.routes: dict[str, RouteChanged] = {}
        self.settled = 0

    async def settle(self) -> None:
        self.settled += 1

    def get(self, task_key: str) -> RouteChanged | None:
        return self.routes.get(task_key)

    async def take(self, route: RouteChanged) -> None:
        self.routes[route.task_key] = route


class FakeHistory:
    def __init__(self, *routes: RouteChanged) -> None:
        self._routes = list(routes)

    def latest_routes(self) -> list[RouteChanged]:
        return self._routes


def controller(said: list[RouteChanged], table: FakeTable) -> RouteController:
    async def publish(route: RouteChanged) -> None:
        said.append(route)

    return RouteController({TASK.key: TASK}, table, publish)


async def test_it_decides_on_the_newest_route_says_it_once_and_obeys_it() -> None:
    said, table = [], FakeTable()
    control = controller(said, table)
    for event in [*to_live("s"), *to_live("s")]:
        await control.take(event)
    assert [route.stage for route in said] == ["shadow", "canary", "live"]
    assert table.routes[TASK.key] is said[-1]
    assert table.settled == 6


async def test_what_changes_nothing_and_what_belongs_to_nobody_is_passed_over() -> None:
    said: list[RouteChanged] = []
    control = controller(said, FakeTable())
    await control.take(verdict(GateUndecided, "s", "offline", final=False))
    await control.take(drift("nobody"))
    await control.take(to_live("s")[0].model_copy(update={"task": "unknown"}))
    assert said == []


async def test_routes_that_the_log_has_lost_are_written_again_and_older_ones_are_not() -> None:
    said, table = [], FakeTable()
    kept = follow(*to_live("s"))
    control = controller(said, table)
    foreign = kept.model_copy(update={"task": "gone"})
    await control.restore(FakeHistory(kept, foreign))
    assert said == [kept]
    await control.restore(FakeHistory(follow(*to_live("s")[:1])))
    assert said == [kept]
