"""Training is repeatable: with the same seed, after a crash, whatever else the process does with torch."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from stillhouse.distill.checkpoint import STATE_FILE
from stillhouse.distill.fitting import mixed
from stillhouse.distill.training import Progress, TrainedStudent, batches, predict, train
from stillhouse.models.features import Featuriser, prepare
from stillhouse.models.port import ModelError
from stillhouse.tasks import StudentCandidate
from tests.unit.distill.toy import LABELS, texts

CANDIDATE = StudentCandidate(
    architecture="hashed_ngrams", buckets=1 << 12, dim=16, epochs=4, batch_size=16, learning_rate=1e-3
)


class Killed(Exception):
    """Stands for the process being killed."""


def run(
    folder, *, candidate=CANDIDATE, seed=1, kill_after=None, learnt=120, chosen=60
) -> tuple[TrainedStudent, list[Progress]]:
    folder.mkdir(exist_ok=True)
    said: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        said.append(progress)
        if progress.epoch == kill_after:
            raise Killed

    trained = train(
        candidate,
        LABELS,
        texts(learnt),
        texts(chosen, seed=1),
        on_progress=on_progress,
        checkpoint_dir=folder,
        seed=seed,
    )
    return trained, said


def same(first: TrainedStudent, second: TrainedStudent) -> bool:
    one, two = first.module.state_dict(), second.module.state_dict()
    return first.temperature == second.temperature and all(torch.equal(one[name], two[name]) for name in one)


def test_it_learns_and_says_how(tmp_path) -> None:
    quick = CANDIDATE.model_copy(update={"learning_rate": None})
    trained, said = run(tmp_path / "a", candidate=quick)
    assert said[-1].select_agreement > 0.95
    assert said[-1].train_loss < said[0].train_loss
    assert [progress.epoch for progress in said] == list(range(1, len(said) + 1))
    assert all(progress.texts_per_s > 0 and progress.epochs == 4 for progress in said)
    assert said[-1].seconds >= said[0].seconds > 0
    assert trained.spec.labels == LABELS
    assert trained.spec.temperature == trained.temperature > 0


def test_the_same_seed_gives_the_same_student_and_leaves_torch_as_it_was(tmp_path) -> None:
    threads, before = torch.get_num_threads(), torch.random.get_rng_state()
    first, _ = run(tmp_path / "a")
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert same(first, run(tmp_path / "b")[0])
    assert not same(first, run(tmp_path / "c", seed=2)[0])


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_run_goes_on_where_it_was_and_ends_as_if_it_had_not_been(tmp_path, epoch) -> None:
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_after=epoch)
    resumed, said = run(tmp_path / "killed")
    assert [progress.epoch for progress in said] == list(range(epoch + 1, 5))
    assert same(whole, resumed)
    assert same(whole, run(tmp_path / "killed")[0])  # a finished run is only loaded


def test_a_killed_run_with_other_arguments_starts_anew(tmp_path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "a", kill_after=2)
    halved = CANDIDATE.model_copy(update={"batch_size": 8})  # as after running out of memory
    resumed, said = run(tmp_path / "a", candidate=halved)
    assert said[0].epoch == 1
    assert same(resumed, run(tmp_path / "b", candidate=halved)[0])


def test_a_spoilt_checkpoint_starts_anew(tmp_path) -> None:
    whole, _ = run(tmp_path / "whole")
    for spoil in ("epoch-0002.safetensors", STATE_FILE):
        folder = tmp_path / f"spoilt-{spoil}"
        with pytest.raises(Killed):
            run(folder, kill_after=2)
        (folder / spoil).write_bytes(b"{")
        resumed, said = run(folder)
        assert said[0].epoch == 1
        assert same(whole, resumed)


def test_checkpoints_are_safetensors_and_json_and_only_two_epochs_stay(tmp_path) -> None:
    run(tmp_path / "a")
    state = json.loads((tmp_path / "a" / STATE_FILE).read_text())
    tensors = {path.name for path in (tmp_path / "a").glob("*.safetensors")}
    assert tensors == {f"epoch-{state[key]:04d}.safetensors" for key in ("epoch", "best_epoch")}
    assert {path.name for path in (tmp_path / "a").iterdir()} == tensors | {STATE_FILE}
    assert all(load_file(str(tmp_path / "a" / name)) for name in tensors)


def test_training_stops_where_it_no_longer_helps_and_keeps_the_best(tmp_path) -> None:
    long = CANDIDATE.model_copy(update={"epochs": 200, "learning_rate": 0.05})
    _, said = run(tmp_path / "a", candidate=long)
    state = json.loads((tmp_path / "a" / STATE_FILE).read_text())
    assert len(said) < 200
    best = min(said, key=lambda progress: progress.select_loss)
    assert state["best_epoch"] == best.epoch
    assert said[-1].epoch == best.epoch + 3


def test_patience_is_the_candidates(tmp_path) -> None:
    long = CANDIDATE.model_copy(update={"epochs": 200, "learning_rate": 0.05, "patience": 1})
    _, said = run(tmp_path / "a", candidate=long)
    best = min(said, key=lambda progress: progress.select_loss)
    assert said[-1].epoch == best.epoch + 1 < 200


def test_accumulated_batches_make_the_same_student_as_larger_ones_but_for_who_is_in_them(tmp_path) -> None:
    quick = CANDIDATE.model_copy(update={"learning_rate": None, "batch_size": 4, "accumulate": 4})
    trained, said = run(tmp_path / "a", candidate=quick)
    assert said[-1].select_agreement > 0.95
    with pytest.raises(Killed):
        run(tmp_path / "killed", candidate=quick, kill_after=2)
    assert same(trained, run(tmp_path / "killed", candidate=quick)[0])
    every = quick.model_copy(update={"accumulate": 1})
    assert not same(trained, run(tmp_path / "b", candidate=every)[0])


def test_a_step_of_all_accumulated_batches_is_one_of_all_texts(tmp_path) -> None:
    parts = CANDIDATE.model_copy(update={"batch_size": 8, "accumulate": 15, "epochs": 2})  # of 120 texts
    whole = CANDIDATE.model_copy(update={"batch_size": 120, "epochs": 2})
    one, _ = run(tmp_path / "parts", candidate=parts)
    two, _ = run(tmp_path / "whole", candidate=whole)
    others = two.module.state_dict()
    assert all(torch.allclose(value, others[name], atol=1e-5) for name, value in one.module.state_dict().items())


def test_bfloat16_learns_with_weights_in_float32_and_is_resumed_to_the_bit(tmp_path) -> None:
    half = CANDIDATE.model_copy(update={"learning_rate": None, "precision": "bfloat16"})
    trained, said = run(tmp_path / "a", candidate=half)
    assert said[-1].select_agreement > 0.95
    assert {parameter.dtype for parameter in trained.module.parameters()} == {torch.float32}
    with pytest.raises(Killed):
        run(tmp_path / "killed", candidate=half, kill_after=1)
    assert same(trained, run(tmp_path / "killed", candidate=half)[0])
    exact, _ = run(tmp_path / "b", candidate=half.model_copy(update={"precision": "float32"}))
    assert not same(trained, exact)


@pytest.mark.parametrize(
    "changes", [{"accumulate": 0}, {"patience": 0}, {"precision": "float16"}], ids=lambda changes: next(iter(changes))
)
def test_what_no_loop_can_do_is_refused(changes) -> None:
    with pytest.raises(ValidationError, match=next(iter(changes))):
        StudentCandidate.model_validate(CANDIDATE.model_dump() | changes)


def test_divergence_is_said_with_the_mend(tmp_path) -> None:
    wild = CANDIDATE.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ModelError, match="learning_rate"):
        run(tmp_path / "a", candidate=wild)


def test_nothing_to_learn_from_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="empty"):
        train(CANDIDATE, LABELS, [], texts(3), on_progress=print, checkpoint_dir=tmp_path, seed=0)


def test_each_generation_is_taught_by_the_one_before_it_and_resumed_to_the_bit(tmp_path) -> None:
    twice = CANDIDATE.model_copy(update={"learning_rate": None, "born_again": 1, "epochs": 2})
    trained, said = run(tmp_path / "a", candidate=twice)
    assert [progress.epoch for progress in said] == [1, 2, 3, 4]
    assert {progress.epochs for progress in said} == {4}
    assert said[-1].select_agreement > 0.9
    assert trained.candidate == twice
    first, _ = run(tmp_path / "first", candidate=twice.model_copy(update={"born_again": 0}))
    rows = texts(120)
    featuriser = Featuriser(first.spec, None)
    answers = predict(first.module, [featuriser.ids(prepare(row.text)) for row in rows], tokens=False)
    (tmp_path / "by hand").mkdir()
    by_hand = train(
        twice.model_copy(update={"born_again": 0}),
        LABELS,
        rows,
        texts(60, seed=1),
        on_progress=lambda _: None,
        checkpoint_dir=tmp_path / "by hand",
        seed=mixed(1, 1),
        soft=torch.from_numpy(answers).softmax(dim=1).numpy(),
    )
    assert same(trained, by_hand)
    with pytest.raises(Killed):
        run(tmp_path / "killed", candidate=twice, kill_after=3)
    again, rest = run(tmp_path / "killed", candidate=twice)
    assert [progress.epoch for progress in rest] == [4]
    assert same(trained, again)


def test_every_text_is_in_one_batch_beside_texts_of_its_length() -> None:
    import numpy as np

    seen = [np.arange(1 + (i * 7) % 50) for i in range(103)]
    drawn = list(batches(seen, 16, seed=0))
    assert sorted(i for batch in drawn for i in batch.tolist()) == list(range(103))
    padding = sum(len(batch) * max(len(seen[i]) for i in batch) for batch in drawn)
    assert padding < 1.35 * sum(len(ids) for ids in seen)
    again = list(batches(seen, 16, seed=0))
    assert all(torch.equal(one, two) for one, two in zip(drawn, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(drawn, batches(seen, 16, seed=1), strict=True))
