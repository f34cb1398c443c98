"""`python -m tests.faults.storm --minutes 10 --seed 7`: everything that can fail, in a random order, under load.

At the end the platform is left alone, and what must hold is checked from outside. The log names every fault and when it
struck; the same seed gives the same order of faults (when each has its effect is the machine's affair). Exit status 1
where an invariant was broken; the folder with all logs is kept then.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaProducer

from stillhouse.bus import producer_options
from stillhouse.embedded.ports import free_port
from stillhouse.events import SERVICES
from tests.faults.llm import SlowLlm
from tests.faults.load import Load, Sent
from tests.faults.outside import (
    live_student,
    recorded,
    unsound_events,
    unsound_jobs,
    unsound_store,
    unsound_tests,
)
from tests.faults.platform import Platform, copy_models, until
from tests.faults.world import fit, write_tasks

EXTRA_ROUTERS = 3
POISONED = ("inference.requested", "inference.completed", "inference.audited", "example.recorded", "gate.passed")
WEIGHTS = {
    "kill": 10,
    "terminate": 3,
    "another router": 3,
    "one router less": 2,
    "broker": 1,
    "power": 1,
    "valkey": 1,
    "flush": 1,
    "poison": 2,
    "slow teacher": 3,
}
UNREAD_S = 60.0  # answers so shortly before the end of a log may have gone with it before the observer read them

Say = Callable[[str], None]


class Storm:
    """The faults, on one platform."""

    def __init__(self, platform: Platform, llm: SlowLlm, seed: int, say: Say) -> None:
        self._platform = platform
        self._llm = llm
        self._rng = random.Random(seed)
        self._say = say
        self.faults: Counter[str] = Counter()
        self.logs_ended: list[float] = []

    def took(self, sent: Sent) -> bool:
        """Whether an answer may have gone with a log. Its sender may have heard it just after the log's end."""
        made = sent.completed.time.timestamp() if sent.completed else sent.at
        return any(0 <= end - at < UNREAD_S for end in self.logs_ended for at in (made, sent.at))

    async def rage(self, seconds: float) -> None:
        """One fault after the other, 2 to 8 seconds apart."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            fault = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            pause, choice = self._rng.uniform(2.0, 8.0), self._rng.random()
            self.faults[fault] += 1
            await self._strike(fault, choice)
            await asyncio.sleep(pause)  # how dense the storm is

    async def _strike(self, fault: str, choice: float) -> None:
        platform = self._platform
        running = sorted(name for name, member in platform.members.items() if member.pid is not None)
        extra = [name for name in running if name.startswith("router-")]
        victim = running[int(choice * len(running))] if running else None
        match fault:
            case "kill" if victim:
                self._say(f"kill -9 {victim}")
                await platform.kill(victim)
            case "terminate" if victim:
                status, took = await platform.terminate(victim, back=True)
                self._say(f"SIGTERM {victim}: status {status} after {took:.1f} s")
                if took > 15 or status not in (0, -15):  # -15: it had not begun
                    self.faults["SIGTERM not drained"] += 1
            case "another router" if len(extra) < EXTRA_ROUTERS:
                name = next(f"router-{n}" for n in range(2, 99) if f"router-{n}" not in platform.members)
                self._say(f"{name} joins")
                platform.add("router", name)
            case "one router less" if extra:
                name = extra[int(choice * len(extra))]
                self._say(f"kill -9 {name}, for good")
                await platform.kill(name, back=False)
                del platform.members[name]
            case "broker":
                self.logs_ended.append(time.time())
                self._say(f"kill -9 broker; a new, empty one after {2 * choice:.1f} s")
                await platform.restart_broker(2 * choice)
            case "power":
                self.logs_ended.append(time.time())
                self._say("power cut: kill -9 of everything at once")
                await platform.power_cut()
            case "valkey":
                self._say("kill -9 valkey, and start it again")
                await platform.restart_valkey()
            case "flush":
                self._say("FLUSHALL")
                await platform.flush_redis()
            case "poison":
                topic = POISONED[int(choice * len(POISONED))]
                self._say(f"100 records of poison in {topic}")
                async with AIOKafkaProducer(**producer_options(platform.settings.kafka)) as producer:
                    sent = [await producer.send(topic, b"{poison", key=str(n).encode()) for n in range(100)]
                    await asyncio.gather(*sent)
            case "slow teacher":
                self._llm.delay_s = 6 * choice
                self._say(f"the slow teacher takes {self._llm.delay_s:.1f} s")


async def storm(folder: Path, fitted: Path, seconds: float, seed: int, say: Say) -> list[str]:
    """Play a storm of `seconds`; what was broken, in sentences."""
    begun = time.monotonic()

    def timed(line: str) -> None:
        say(f"{time.monotonic() - begun:7.1f} s  {line}")

    async with SlowLlm(free_port()).serving() as llm:
        tasks = write_tasks(folder / "tasks", llm.url)
        platform = Platform(folder, tasks, {"STILLHOUSE_KAFKA__POISON_PAUSE_S": "3"})
        copy_models(fitted, platform.home)
        try:
            await platform.start(SERVICES)
            timed(f"ready; seed {seed}, {seconds:g} s")
            return await _play(platform, llm, seconds, seed, timed)
        finally:
            await platform.stop()


async def _play(platform: Platform, llm: SlowLlm, seconds: float, seed: int, say: Say) -> list[str]:
    raging = Storm(platform, llm, seed, say)
    wrong: list[str] = []
    async with Load.of(platform.settings, seed, again=True) as load:
        async with load.running(8, "fast"), load.running(0.7, "slow"):
            await raging.rage(seconds)
        llm.delay_s = 0.0
        say(f"calm; {len(load.sent)} sent, {len(load.answered())} answered so far")
        await platform.ready(seconds=300)
        say("all services are ready again")
        try:
            await load.settled(300)
            after = await load.send(20)
            await load.settled(300)
            if not all(sent.answered for sent in after):
                wrong.append("requests after the storm are not answered")
            async with load.running(8, "fast"):
                await until(lambda: live_student(platform), "the loop goes on: a student is live", 600, every=1.0)
            await load.settled(300)
        except AssertionError as error:
            left = [sent for sent in load.sent.values() if not sent.answered]
            wrong.append(f"{error}; {len(left)} are not answered, such as {left[:3]}")
        errors = Counter(
            sent.completed.failure.code for sent in load.sent.values() if sent.completed and sent.completed.failure
        )
        gone = {request_id for request_id, sent in load.answered().items() if raging.took(sent)}
        try:
            await recorded(platform, load, gone)
        except AssertionError as error:
            wrong.append(str(error))
        wrong += await unsound_store(platform, load) + await unsound_jobs(platform)
        wrong += await unsound_events(platform) + await unsound_tests(platform)
        if raging.faults.pop("SIGTERM not drained", 0):
            wrong.append("a service did not end within 15 s of SIGTERM")
        if errors:
            wrong.append(f"requests were answered with errors: {dict(errors)}")
        rows = {row["cause_id"] for row in platform.store.ledger().to_pylist() if row["kind"] == "request"}
        student = await live_student(platform)
        say(f"faults: {dict(raging.faults)}")
        say(f"requests: {len(load.sent)} sent, {len(load.answered())} answered, {load.lost} times said to be lost")
        say(f"ledger: {len(rows)} requests; {len(gone - rows)} answers went with a log before they were read")
        say(f"store: {platform.store.count_examples('default/fast')} examples of fast; live student: {student}")
    for line in wrong:
        say(f"BROKEN: {line}")
    say("invariants held" if not wrong else f"{len(wrong)} invariants broken")
    return wrong


def main() -> int:
    """Play one storm; 0 where everything held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--fitted", type=Path, help="a folder that keeps the fitted teachers between storms")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it says many times that the broker is away
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    fitted = options.fitted or folder / "fitted"
    fit(write_tasks(folder / "fit"), fitted)

    def say(line: str) -> None:
        print(line, flush=True)

    wrong = asyncio.run(storm(folder, fitted, 60 * options.minutes, options.seed, say))
    if wrong:
        print(f"logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
