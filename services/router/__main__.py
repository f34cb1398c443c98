"""`python -m services.router`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import sys

from aiokafka.errors import KafkaError

from services.router.app import serve
from stillhouse.models.port import ModelError
from stillhouse.models.worker import TeacherWorker
from stillhouse.settings import Settings
from stillhouse.tasks import TaskFileError, load_tasks


async def main() -> None:
    """Load the tasks, start their teachers, answer."""
    settings = Settings()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = load_tasks(settings.tasks)
    teachers = {key: TeacherWorker(task, settings.home) for key, task in tasks.items()}
    try:
        for teacher in teachers.values():
            await teacher.start()
        await serve(settings, tasks, teachers, stop)
    finally:
        for teacher in teachers.values():
            await teacher.close()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ModelError, TaskFileError, KafkaError) as error:
        sys.exit(f"router: {error}")
