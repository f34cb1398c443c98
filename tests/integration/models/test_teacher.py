"""A fitted teacher: once per seed, the same answers in any company, the encoder shared by tasks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stillhouse.models.port import ModelError
from stillhouse.models.teacher import EnsembleTeacher, fit_teacher
from stillhouse.models.worker_model import WorkerModel
from stillhouse.tasks import load_task

TASK = load_task(Path(__file__).parents[3] / "deploy" / "tasks" / "manga-support.toml")
TEXTS = ["where is my order", "refund", "i want to send it back " * 30, "my account was hacked", "is volume 3 there?"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def test_fitting_twice_fits_once_and_says_how_far_it_is(home) -> None:
    phases: list[str] = []
    folder = fit_teacher(TASK, home, lambda at: phases.append(at.phase))
    made = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    assert list(dict.fromkeys(phases)) == ["encoder", "seed", "head"]
    assert fit_teacher(TASK, home, lambda at: phases.clear()) == folder
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()} == made
    assert phases


def test_a_second_task_reuses_the_encoder(home) -> None:
    phases: list[str] = []
    other = TASK.model_copy(update={"name": "other", "tenant": "acme"})
    folder = fit_teacher(other, home, lambda at: phases.append(at.phase))
    assert folder.parent == home / "teachers" / "acme" / "other"
    assert "encoder" not in phases
    assert len([path for path in (home / "encoders").iterdir() if path.is_dir()]) == 1
    assert not [path for path in home.rglob(".*") if path.is_dir()]  # no staging folder is left


def test_answers_do_not_depend_on_the_batch(home) -> None:
    teacher = EnsembleTeacher(TASK, fit_teacher(TASK, home))
    together = teacher.predict(TEXTS)
    for text, answer in zip(TEXTS, together, strict=True):
        [alone] = teacher.predict([text])
        assert (alone.output, alone.policy) == (answer.output, answer.policy)
        assert alone.distribution == pytest.approx(answer.distribution, abs=1e-5)
        assert sum(answer.distribution.values()) == pytest.approx(1, abs=0.02)
    assert together[3].policy == "fraud"


async def test_the_worker_answers_as_the_teacher_in_order(home) -> None:
    teacher = EnsembleTeacher(TASK, await asyncio.to_thread(fit_teacher, TASK, home))
    expected = [answer.output for answer in teacher.predict(TEXTS)]
    model = WorkerModel.teacher(TASK, home)
    await model.start()
    try:
        assert model.version == teacher.version
        calls = await asyncio.gather(*(model.predict([text]) for text in TEXTS * 20))
        assert [answer.output for [answer] in calls] == expected * 20
        assert all(answer.cost_usd == TASK.teacher.usd_per_call and answer.cpu_ms > 0 for [answer] in calls)
    finally:
        await model.close()


def test_a_changed_head_is_refused(home) -> None:
    folder = fit_teacher(TASK.model_copy(update={"name": "spoilt"}), home)
    head = folder / "head.npz"
    data = bytearray(head.read_bytes())
    data[len(data) // 2] ^= 1
    head.write_bytes(data)
    with pytest.raises(ModelError, match=r"head\.npz: its sha256"):
        EnsembleTeacher(TASK, folder)
