"""One fitted teacher for all, and one platform for the tests that leave it as they found it."""

from __future__ import annotations

import pytest
import pytest_asyncio

from stillhouse.embedded.ports import free_port
from tests.faults.llm import SlowLlm
from tests.faults.platform import Platform, copy_models
from tests.faults.world import fit, write_tasks


@pytest.fixture(scope="session")
def fitted(request, tmp_path_factory):
    """A home with the encoder and the teachers of both tasks; kept between runs, its folders carry their versions."""
    home = request.config.cache.mkdir("stillhouse-teachers")
    fit(write_tasks(tmp_path_factory.mktemp("fit")), home)
    return home


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def llm():
    async with SlowLlm(free_port()).serving() as serving:
        yield serving


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def platform(fitted, llm, tmp_path_factory):
    """All five services; the students' first training is far away."""
    folder = tmp_path_factory.mktemp("platform")
    started = Platform(
        folder,
        write_tasks(folder / "tasks", llm.url, min_examples=1_000_000),
        {"STILLHOUSE_KAFKA__POISON_PAUSE_S": "2", "STILLHOUSE_OBSERVER_PAUSE_S": "1"},
    )
    copy_models(fitted, started.home)
    try:
        await started.start()
        yield started
    finally:
        await started.stop()
