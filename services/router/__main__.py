"""`python -m services.router`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog
from aiokafka.errors import KafkaError

from services.router.app import serve
from stillhouse.models.port import ModelError
from stillhouse.models.worker_model import WorkerModel
from stillhouse.settings import Settings
from stillhouse.tasks import TaskFileError, load_tasks
from stillhouse.telemetry.http import HttpServer, PortTaken
from stillhouse.telemetry.logs import configure_logging


async def main() -> None:
    """Load the tasks, start their teachers, answer; say over HTTP how it is."""
    settings = Settings()
    configure_logging(settings.telemetry, "router")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = load_tasks(settings.tasks)
    teachers = {key: WorkerModel.teacher(task, settings.home) for key, task in tasks.items()}

    async def ready() -> dict[str, bool]:
        return {f"teacher of {key}": teacher.pid is not None for key, teacher in teachers.items()}

    http = HttpServer(settings.telemetry.http_host, settings.telemetry.http_port, lambda: True, ready)
    await http.start()
    structlog.get_logger().info("health and metrics", host=settings.telemetry.http_host, port=http.port)
    try:
        for teacher in teachers.values():
            await teacher.start()
        await serve(settings, tasks, teachers, stop)
    finally:
        for teacher in teachers.values():
            await teacher.close()
        await http.stop()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ModelError, TaskFileError, KafkaError, PortTaken) as error:
        sys.exit(f"router: {error}")
