"""The generator of `edge`, a process of its own: an open loop at fixed arrivals, over connections that are kept.

`python -m tests.benchmarks.edge_load JOB`: JOB is JSON with `port`, `path`, `headers`, `model`, `rate` (requests a
second), `seconds`, `patience_s`. A request that finds no idle connection opens one, so a slow server is asked no less
often. Latency counts from the moment at which a request was meant to leave. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
import time
from collections import deque
from typing import Any

import numpy as np

TEXT = (
    "Hello, I ordered two volumes last Tuesday and paid by card, but I have had no message since. Could you tell me "
    "where my order is, and whether it will still be here before the weekend? Thank you, order "
)
MOST_CONNECTIONS = 2000  # what comes beyond waits, and its latency counts


class Connection(asyncio.Protocol):
    """One connection with at most one request on it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._said = bytearray()
        self._place = -1
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, place: int, request: bytes) -> None:
        self._place = place
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._said += data
        head = self._said.find(b"\r\n\r\n")
        if head < 0:
            return
        fields = bytes(self._said[:head]).lower()
        if (at := fields.find(b"content-length:")) >= 0:
            length = int(fields[at + 15 :].split(b"\r\n", 1)[0])
            whole = len(self._said) >= head + 4 + length
        else:
            whole = self._said.endswith(b"0\r\n\r\n")  # in chunks
        if not whole:
            return
        place, self._place = self._place, -1
        status, body = int(self._said[9:12]), bytes(self._said[head + 4 :])
        self._said.clear()
        kept = b"connection: close" not in fields
        if not kept and self._transport is not None:
            self._transport.close()
        self._load.answered(place, status, body, self if kept else None)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self, self._place)
        self._place = -1


class Load:
    """Sends at fixed times and notes when what came back."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._count = max(1, int(job["rate"] * job["seconds"]))
        self._due = np.arange(self._count) / job["rate"]
        self._arrived = np.full(self._count, np.nan)
        self._late = np.full(self._count, np.nan)
        self._statuses: dict[int, int] = {}
        self._idle: deque[Connection] = deque()
        self._open = 0
        self._waiting: deque[int] = deque()
        self._next = self._ended = 0
        self._first_error = ""
        self._all = asyncio.Event()
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self) -> dict[str, Any]:
        for _ in range(4):
            await self._connect(None)
        timer, self._began = _timer(1 / self._job["rate"])
        loop = asyncio.get_running_loop()
        loop.add_reader(timer, self._tick, timer)
        try:
            async with asyncio.timeout(self._job["seconds"] + self._job["patience_s"]):
                await self._all.wait()
        except TimeoutError:
            pass
        loop.remove_reader(timer)
        os.close(timer)
        return self._said()

    def answered(self, place: int, status: int, body: bytes, free: Connection | None) -> None:
        """An answer is whole; `free` may be asked the next."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        # What looks like an answer must be one.
        if status == 200 and b'"choices"' in body and b"three working days" in body:
            self._arrived[place] = time.perf_counter() - self._began
        elif not self._first_error:
            self._first_error = f"{status} {body[:300].decode(errors='replace')}"
        if free is not None:
            self._idle.append(free)
        self._end()
        if self._waiting and self._idle:
            self._send(self._waiting.popleft())

    def lost(self, connection: Connection, place: int) -> None:
        """A connection has gone, with the request `place` on it where that is not negative."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        if place >= 0:
            self._first_error = self._first_error or "the connection was closed"
            self._end()

    def _tick(self, timer: int) -> None:
        times = int.from_bytes(os.read(timer, 8), sys.byteorder)
        for _ in range(min(times, self._count - self._next)):
            self._late[self._next] = time.perf_counter() - self._began - self._due[self._next]
            self._send(self._next)
            self._next += 1

    def _send(self, place: int) -> None:
        if self._idle:
            self._idle.pop().ask(place, self._request(place))
        elif self._open < MOST_CONNECTIONS:
            opening = asyncio.create_task(self._connect(place))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
        else:
            self._waiting.append(place)

    async def _connect(self, place: int | None) -> None:
        self._open += 1
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), "127.0.0.1", self._job["port"]
            )
        except OSError as error:
            self._open -= 1
            self._first_error = self._first_error or str(error)
            if place is not None:
                self._end()
            return
        if place is None:
            self._idle.append(connection)
        else:
            connection.ask(place, self._request(place))

    def _request(self, place: int) -> bytes:
        content = f"{TEXT}{place}."
        body = json.dumps({"model": self._job["model"], "messages": [{"role": "user", "content": content}]}).encode()
        fields = {"host": "127.0.0.1", "content-type": "application/json", "content-length": len(body)}
        head = "".join(f"{name}: {value}\r\n" for name, value in (fields | self._job["headers"]).items())
        return f"POST {self._job['path']} HTTP/1.1\r\n{head}\r\n".encode() + body

    def _end(self) -> None:
        self._ended += 1
        if self._ended >= self._count:
            self._all.set()

    def _said(self) -> dict[str, Any]:
        waited = (self._arrived - self._due) * 1000
        good = waited[~np.isnan(waited)]
        p50, p90, p99 = (float(np.quantile(good, q)) if good.size else None for q in (0.5, 0.9, 0.99))
        last = float(np.nanmax(self._arrived)) if good.size else float("nan")
        return {
            "sent": self._count,
            "answered": int(good.size),
            "offered_rps": self._job["rate"],
            "answered_rps": good.size / max(last, self._job["seconds"]) if good.size else 0.0,
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "max_ms": float(good.max()) if good.size else None,
            "connections": self._open,
            "statuses": self._statuses,
            "first_error": self._first_error,
            # How late the generator itself was: a large value says that it, or the machine, was the bottleneck.
            "sender_late_p99_ms": float(np.nanquantile(self._late, 0.99) * 1000),
        }


def _timer(interval: float) -> tuple[int, float]:
    """A kernel timer that fires at fixed times, and the moment of its first; an event loop's own is 1 ms late."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    began = time.perf_counter() + 0.05
    each, first = divmod(round(interval * 1e9), 10**9), divmod(round(began * 1e9), 10**9)
    specification = (ctypes.c_long * 4)(*each, *first)
    if libc.timerfd_settime(timer, 1, ctypes.byref(specification), None) != 0:  # 1: `first` is a time, not a wait
        raise OSError(ctypes.get_errno(), "timerfd_settime")
    return timer, began


async def _main() -> None:
    gc.disable()
    print(json.dumps(await Load(json.loads(sys.argv[1])).run()))


if __name__ == "__main__":
    asyncio.run(_main())
