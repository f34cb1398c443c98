"""The demo in a terminal: who answers, what it costs, what just happened. Plain lines where nobody can be drawn for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stillhouse.demo.figures import agreement
from stillhouse.demo.player import Tally
from stillhouse.demo.source import Plan
from stillhouse.demo.watcher import State
from stillhouse.tasks import Task

BARS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 60  # of the sparkline, one column a frame of `EVERY_S`
EVERY_S: Final = 2.0
RECENT_S: Final = 10.0  # rates and costs are over this long
PLAIN_S: Final = 15.0  # between two status lines where there is no terminal
STAGES: Final = ("teacher", "shadow", "canary", "live")


@dataclass(frozen=True, slots=True)
class Sample:
    """Totals at one time, seconds of a steady clock."""

    at: float
    sent: int
    by_teacher: int
    by_student: int
    spent_usd: float


class View:
    """Draws a state that others change."""

    def __init__(self, console: Console, plan: Plan, task: Task, state: State, tally: Tally) -> None:
        self._console = console
        self._plan = plan
        self._task = task
        self._state = state
        self._tally = tally
        self._begun = time.monotonic()
        self._samples: deque[Sample] = deque([self._sample()], maxlen=200)
        self._shares: deque[float | None] = deque(maxlen=WIDTH)
        self._told = 0
        self._next_share = self._begun

    async def show(self) -> None:
        """Draw until cancelled."""
        if self._console.is_terminal:
            with Live(self.render(), console=self._console, auto_refresh=False, transient=True) as live:
                while True:
                    self.tick()
                    live.update(self.render(), refresh=True)
                    await asyncio.sleep(0.25)
        next_line, said = time.monotonic() + PLAIN_S, ""
        while True:
            self.tick()
            self.print_news()
            if time.monotonic() >= next_line:
                if (line := self.status_line()) != said:  # while a large student is trained, nothing moves
                    self._console.print(line, soft_wrap=True, markup=False)
                next_line, said = next_line + PLAIN_S, line
            await asyncio.sleep(0.25)

    def tick(self) -> None:
        """Take the totals of now into rates and sparkline."""
        sample = self._sample()
        while len(self._samples) > 1 and sample.at - self._samples[1].at >= RECENT_S:
            self._samples.popleft()
        self._samples.append(sample)
        if sample.at >= self._next_share:
            self._shares.append(self.recent()[1])
            self._next_share = sample.at + EVERY_S

    def recent(self) -> tuple[float, float | None, float | None]:
        """Requests a second, share answered by students, and USD per 1,000 answers, over the last seconds."""
        first, last = self._samples[0], self._samples[-1]
        seconds = last.at - first.at
        answered = last.by_teacher + last.by_student - first.by_teacher - first.by_student
        rate = (last.sent - first.sent) / seconds if seconds > 0 else 0.0
        if answered <= 0:
            return rate, None, None
        share = (last.by_student - first.by_student) / answered
        return rate, share, 1000 * (last.spent_usd - first.spent_usd) / answered

    def print_news(self) -> None:
        """Print the events that were not printed yet."""
        fresh = list(self._state.news)[self._told :]
        for at, text in fresh:
            self._console.print(f"{at:%H:%M:%S}  {text}", soft_wrap=True, markup=False, highlight=False)
        self._told += len(fresh)

    def status_line(self) -> str:
        """The numbers on one line."""
        rate, share, cost = self.recent()
        tally = self._tally
        return (
            f"{self._state.stage}: {tally.sent:,} sent at {rate:.0f}/s, {tally.answered:,} answered, {tally.lost:,} "
            f"lost; student {_percent(share)}; {_usd(cost)} per 1,000 (teacher {_usd(self._list_price())}); "
            f"{len(self._state.examples):,} examples"
        )

    def render(self) -> RenderableType:
        """The whole picture."""
        sample = "a generated sample" if self._plan.sample else "your messages"
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        return Panel(
            Group(self._stages(), Text(), self._numbers(), Text(), self._sparkline(), Text(), *self._news()),
            title=f"Stillhouse demo: {self._plan.task}, {sample}",
            subtitle=f"{minutes}:{seconds:02d}",
            border_style="dim",
        )

    def _stages(self) -> Text:
        line = Text()
        for name in STAGES:
            here = name == self._state.stage
            line.append(f" {name} ", style="reverse bold" if here else "dim")
            line.append("  " if name == STAGES[-1] else " > ", style="dim")
        doing = "training a student" if self._state.training else self._state.budget and self._state.budget.reason
        line.append(f"  {doing}" if doing else "", style="italic")
        if self._tally.injected_at is not None:
            line.append("  traffic has changed", style="yellow")
        return line

    def _numbers(self) -> Table:
        rate, _, cost = self.recent()
        state, tally = self._state, self._tally
        said = agreement([a for a in state.audits.values() if a.stage == "live" and a.student_id == state.live])
        agrees = f"{_percent(said['estimate'])}, at least {_percent(said['lower'])}" if said["n"] else "–"
        table = Table.grid(padding=(0, 3, 0, 0))
        for justify in ("left", "right", "left", "right"):
            table.add_column(justify=justify)
        errors = sum(tally.errors.values())
        rows = (
            ("requests sent", f"{tally.sent:,}", "a second", f"{rate:.0f}"),
            ("answered", f"{tally.answered:,}", "lost, errors", f"{tally.lost:,}, {errors:,}"),
            ("by the teacher", f"{state.by_teacher:,}", "by students", f"{state.by_student:,}"),
            ("examples recorded", f"{len(state.examples):,}", "students trained", f"{len(state.trained)}"),
            ("USD per 1,000, now", _usd(cost), "teacher alone", _usd(self._list_price())),
            ("drift alarms", f"{len(state.drifts)}", f"live agreement (n = {said['n']:,})", agrees),
        )
        for row in rows:
            table.add_row(*row)
        return table

    def _sparkline(self) -> Text:
        bars = "".join(" " if share is None else BARS[round(share * (len(BARS) - 1))] for share in self._shares)
        line = Text(bars.rjust(WIDTH), style="green")
        line.append(f"  {_percent(self.recent()[1])} by the student", style="bold")
        return line

    def _news(self) -> list[Text]:
        last = list(self._state.news)[-8:]
        lines = []
        for at, text in last:
            style = "red" if text.startswith(("drift:", "training failed")) else ""
            line = Text(f"{at:%H:%M:%S}  ", style="dim", no_wrap=True, overflow="ellipsis")
            line.append(text, style=style)
            lines.append(line)
        return lines or [Text("waiting for the first events", style="dim")]

    def _list_price(self) -> float:
        return 1000 * self._task.teacher.usd_per_call

    def _sample(self) -> Sample:
        state = self._state
        return Sample(time.monotonic(), self._tally.sent, state.by_teacher, state.by_student, state.spent_usd)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _usd(value: float | None) -> str:
    return "–" if value is None else f"${value:.3f}"
