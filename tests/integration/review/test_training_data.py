"""What a training job learns from, after people looked: from a real store, through the job's own code."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from services.trainer.job import _data
from stillhouse.bus.jobs import read_json
from stillhouse.store import ReviewRow, Store
from stillhouse.store.redaction import input_hash
from tests.integration.review.conftest import example
from tests.unit.trainer.tasks import make_task


def review(
    number: int, verdict: str, label: str | None, said: str, drawn: str = "picked", minutes: int = 0
) -> ReviewRow:
    return ReviewRow(
        review_id=f"review-{number}-{minutes}",
        time=datetime.now(UTC) - timedelta(hours=1) + timedelta(minutes=minutes),
        tenant="default",
        task="intents",
        case_id=f"case-{number}",
        example_id=f"e{number}",
        request_id=f"request-{number}",
        input_sha256=input_hash(f"zebra sentence {number}"),
        reason="random" if drawn == "random" else "disagreement",
        drawn=drawn,  # type: ignore[arg-type]
        reviewer="ann",
        verdict=verdict,  # type: ignore[arg-type]
        label=label,
        previous_label=said,
        teacher_version="t1",
    )


@pytest.fixture
def learnt(home, tmp_path):
    """The texts that a job trains on, with their labels; called again the same job goes on."""
    folder = tmp_path / "job"
    folder.mkdir()
    cutoff = datetime.now(UTC)

    def data(reviews=(), **review_keys):
        store = Store(home / "store")
        store.append_examples([example(number) for number in range(200)])
        store.append_reviews(reviews)
        job = {"cutoff": cutoff.isoformat(), "since": None}
        dataset, train, select, *_ = _data(folder, make_task(review=review_keys), home, job)
        return dataset, train, select, read_json(folder / "reviewed.json")

    return data


def test_a_correction_trains_with_its_weight_and_a_flagged_text_does_not_train(learnt) -> None:
    reviews = [review(3, "correct", "a", "b", minutes=1), review(3, "correct", "c", "b"), review(4, "flag", None, "a")]
    dataset, train, _, told = learnt(reviews, human_weight=4)
    texts = {one.row["input"]: one for one in train}
    corrected, recorded = texts["zebra sentence 3"], texts["zebra sentence 5"]
    assert (corrected.row["output"], json.loads(corrected.row["distribution"]), corrected.weight) == (
        "a",
        {"a": 1.0},
        4.0,
    )
    assert (recorded.row["output"], recorded.weight) == ("b", 1.0)
    assert "zebra sentence 4" not in texts
    assert dataset.n_train + dataset.n_select == 199
    assert told == {"texts_with_human_label": 1, "examples_left_out": 1, "suspect_labels": []}
    # An attempt after a crash learns the same, whatever was said since.
    again = learnt([review(5, "flag", None, "b", minutes=200)], human_weight=4)
    assert (again[0], again[1]) == (dataset, train)


def test_a_label_that_people_prove_wrong_is_copied_from_nobody_but_people(learnt) -> None:
    reviews = [review(n, "correct", "c" if n % 4 == 1 else "a", "b", drawn="random") for n in range(1, 41, 2)]
    _, train, select, told = learnt(reviews)
    texts = {one.row["input"]: one.row["output"] for one in [*train, *select]}
    assert told["suspect_labels"] == ["b"]
    assert set(texts.values()) == {"a", "c"}
    assert texts["zebra sentence 1"] == "c"  # looked at
    assert "zebra sentence 51" not in texts  # not looked at
    assert told["examples_left_out"] == 80


def test_what_was_erased_while_the_dataset_was_frozen_is_not_trained_on(learnt, home, monkeypatch) -> None:
    from services.trainer import job

    real = job.freeze

    def freeze(*arguments):
        frozen = real(*arguments)
        Store(home / "store").erase(requests=["request-7"])
        return frozen

    monkeypatch.setattr(job, "freeze", freeze)
    _, train, select, _ = learnt()
    assert "zebra sentence 7" not in {one.row["input"] for one in [*train, *select]}
