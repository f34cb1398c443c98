"""A task file's curriculum, token dropout and schedules reach training, and repeat themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from stillhouse.distill.pacing import Pacing, of_places
from stillhouse.tasks import StudentCandidate
from tests.unit.distill.test_training import CANDIDATE, Killed, run, same

SOFT = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]], dtype=np.float32)


def candidate(**changes) -> StudentCandidate:
    return StudentCandidate.model_validate(CANDIDATE.model_dump() | changes)


def test_without_any_nothing_changes() -> None:
    pacing, texts = Pacing(candidate(), SOFT), [np.arange(3), np.arange(5)]
    assert pacing.taught(0) is None
    assert pacing.thinned(texts, 7) is texts
    assert {pacing.temperature(done) for done in (0.0, 0.3, 1.0)} == {2.0}
    assert {pacing.alpha(done) for done in (0.0, 0.3, 1.0)} == {0.2}
    assert next(of_places(None, iter([torch.tensor([1])]))).tolist() == [1]


def test_each_is_what_the_candidate_says() -> None:
    pacing = Pacing(candidate(curriculum="confidence", temperature_end=4.0, alpha_end=1.0, schedule="linear"), SOFT)
    assert pacing.taught(0).tolist() == [0, 0, 0]  # what the teacher is surest of, until the epoch is full
    assert sorted(pacing.taught(3)) == [0, 1, 2]
    assert pacing.temperature(0.5) == 3.0
    assert pacing.alpha(0.5) == pytest.approx(0.6)
    found = list(of_places(np.array([5, 7, 9]), iter([torch.tensor([2, 0])])))
    assert found[0].tolist() == [9, 5]
    thin = Pacing(candidate(token_dropout=0.5), SOFT)
    texts = [np.arange(100)] * 3
    kept = thin.thinned(texts, 7)
    assert all(20 < len(one) < 80 for one in kept)
    assert [one.tolist() for one in kept] == [one.tolist() for one in thin.thinned(texts, 7)]
    assert [one.tolist() for one in kept] != [one.tolist() for one in thin.thinned(texts, 8)]


@pytest.mark.parametrize("states", [False, True])
def test_what_an_encoder_reads_keeps_its_ends(states) -> None:
    """Ids, or states of layers that do not learn: [CLS] and [SEP] stay, whatever else is left out."""
    thin = Pacing(candidate(architecture="cut_encoder", token_dropout=0.9), SOFT)
    ids = [np.array([101, *range(1000, 1000 + n), 102]) for n in range(20)]
    texts = [np.stack([one, one], axis=1).astype(np.float32) for one in ids] if states else ids
    kept = thin.thinned(texts, 7)
    assert all((one[[0, -1]] == whole[[0, -1]]).all() for one, whole in zip(kept, texts, strict=True))
    assert sum(map(len, kept)) < 0.4 * sum(map(len, texts))


def test_a_paced_student_learns_and_a_killed_run_ends_as_if_it_had_not_been(tmp_path) -> None:
    paced = candidate(
        curriculum="confidence", token_dropout=0.1, temperature_end=1.0, alpha_end=0.5, learning_rate=None
    )
    whole, said = run(tmp_path / "whole", candidate=paced)
    assert said[-1].select_agreement > 0.95
    with pytest.raises(Killed):
        run(tmp_path / "killed", candidate=paced, kill_after=2)
    assert same(whole, run(tmp_path / "killed", candidate=paced)[0])
    plain, _ = run(tmp_path / "plain", candidate=candidate(learning_rate=None))
    assert not same(whole, plain)


def test_a_curriculum_by_loss_begins_with_what_another_model_gets_right() -> None:
    losses = np.array([2.0, 0.1, 0.5])
    pacing = Pacing(candidate(curriculum="loss"), SOFT, lambda: losses)
    assert pacing.taught(0).tolist() == [1, 1, 1]
    assert sorted(pacing.taught(3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="give `losses`"):
        Pacing(candidate(curriculum="loss"), SOFT)
    unasked = Pacing(candidate(curriculum="confidence"), SOFT, lambda: pytest.fail("nobody needs losses"))
    assert unasked.taught(0).tolist() == [0, 0, 0]


@pytest.mark.parametrize("changes", [{"curriculum": "loss"}, {"mixup": 0.4}], ids=["curriculum by loss", "mixup"])
def test_it_learns_and_a_killed_run_ends_as_if_it_had_not_been(tmp_path, changes) -> None:
    paced = candidate(learning_rate=None, **changes)
    whole, said = run(tmp_path / "whole", candidate=paced)
    assert said[-1].select_agreement > 0.95
    with pytest.raises(Killed):
        run(tmp_path / "killed", candidate=paced, kill_after=2)
    assert same(whole, run(tmp_path / "killed", candidate=paced)[0])
    assert not same(whole, run(tmp_path / "plain", candidate=candidate(learning_rate=None))[0])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mixup": 0.4, "distill": [{"kind": "hard_labels"}]}, r"mixup mixes alpha's .* not those of \[\[student"),
        ({"mixup": -1.0}, "mixup"),
        ({"curriculum": "length"}, "curriculum"),
        ({"alpha_end": 0.5, "class_alpha": {"order": 0.9}}, "alpha_end says nothing beside class_alpha"),
        (
            {"temperature_end": 1.0, "distill": [{"kind": "hard_labels"}]},
            r"temperature_end says nothing beside \[\[student.distill\]\]",
        ),
        ({"token_dropout": 1.0}, "token_dropout"),
        ({"schedule": "stepped"}, "schedule"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, why) -> None:
    with pytest.raises(ValidationError, match=why):
        candidate(**changes)
