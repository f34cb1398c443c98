"""A local teacher's probabilities: kept on disk, compared token by token, asked about answers that a student drew."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.distill.causal_lm.base import load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import Encoded, encode
from stillhouse.distill.causal_lm.forward import logits_of, states_of
from stillhouse.distill.causal_lm.lessons import drawn, hard, soft
from stillhouse.distill.causal_lm.on_policy import draw, draws
from stillhouse.distill.causal_lm.packing import Batch, batch_of
from stillhouse.distill.causal_lm.scores import Scores, score
from stillhouse.distill.causal_lm.sft import Progress, Tuned, tune
from stillhouse.distill.causal_lm.teacher import LocalTeacher, check_tokenizers, teacher_digest
from stillhouse.distill.objectives.divergence import divergence
from stillhouse.distill.objectives.forward_kl import forward_kl
from stillhouse.distill.objectives.tokens import log_probabilities
from stillhouse.files import read_json
from stillhouse.models.port import ModelError
from stillhouse.tasks import LanguageModel
from tests.tiny_models import tiny_causal_lm, tiny_tokenizer
from tests.unit.distill.test_sft import texts

TOKENS, END = 384, 2


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """A student, and a teacher that has learned something of the answers."""
    folder = tmp_path_factory.mktemp("models")
    known = [(text.request.question, text.answer) for text in texts(8)]
    return tiny_causal_lm(folder / "student"), tiny_causal_lm(folder / "teacher", seed=1, taught=known, steps=25)


@pytest.fixture(scope="module")
def examples() -> list[Encoded]:
    return encode(tiny_tokenizer(), texts(70), 200)[0]


def candidate(student: Path, teacher: Path, **changes: object) -> LanguageModel:
    fields = {
        "architecture": "causal_lm",
        "base": str(student),
        "method": "full",
        "learning_rate": 2e-3,
        "batch_size": 512,
        "step_tokens": 512,
        "epochs": 1.0,
        "max_new_tokens": 8,
        "teacher_model": str(teacher),
        "objective": "forward_kl",
    }
    return LanguageModel.model_validate(fields | changes)


def learn(folder: Path, given: LanguageModel, n: int = 32) -> tuple[Tuned, list[Progress]]:
    folder.mkdir(exist_ok=True)
    seen: list[Progress] = []
    data = texts(n + 8)
    teacher = Path(given.teacher_model) if given.teacher_model else None
    found = tune(
        given, Path(given.base), data[:-8], data[-8:], on_progress=seen.append, checkpoint_dir=folder, teacher=teacher
    )
    return found, seen


def teacher_of(folder: Path) -> LocalTeacher:
    return LocalTeacher.load(folder, tiny_tokenizer())


def scored(folder: Path, teacher: Path, examples: list[Encoded], k: int | None = None, t: float = 1.0) -> Scores:
    return score(folder, lambda: teacher_of(teacher), teacher_digest(teacher), examples, END, k=k, temperature=t)


def logits(folder: Path, batch: Batch) -> torch.Tensor:
    model = load_model(folder, load_tokenizer(folder)).eval()
    with torch.no_grad():
        return logits_of(model, states_of(model, batch))


def test_what_is_kept_is_what_the_teacher_says(models, examples, tmp_path) -> None:
    few = examples[:5]
    batch = batch_of([few], 0)
    q, p = (log_probabilities(logits(one, batch)) for one in models)
    whole = scored(tmp_path / "whole", models[1], few)
    found = whole.divergences(range(5), logits(models[0], batch), TOKENS, "forward_kl", beta=0.5, skew=0.1)
    assert torch.allclose(found, forward_kl(p, q), atol=1e-4)
    kept = scored(tmp_path / "kept", models[1], few, k=300)
    some = kept.divergences(range(5), logits(models[0], batch), TOKENS, "forward_kl", beta=0.5, skew=0.1)
    assert torch.allclose(some, forward_kl(p, q), atol=0.02)
    assert kept.bytes_per_token == pytest.approx(4 * 300 + 2, rel=0.01)  # and a head of the file
    assert whole.bytes_per_token == pytest.approx(4 * 128, rel=0.01)


def test_scoring_goes_on_where_it_was_and_is_done_once(models, examples, tmp_path) -> None:
    loaded: list[Path] = []

    def teacher() -> LocalTeacher:
        loaded.append(models[1])
        return teacher_of(models[1])

    def ask(k: int = 4) -> Scores:
        return score(tmp_path, teacher, "digest", examples, END, k=k)

    first = ask()
    assert (len(loaded), read_json(tmp_path / "scores.json")["keeps"]) == (1, "top_k")
    parts = sorted(tmp_path.glob("part-*"))
    assert len(parts) == 2  # of 64 texts each
    stamp = parts[0].stat().st_mtime_ns
    again = ask()
    assert len(loaded) == 1
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(first.kept, again.kept, strict=True))
    parts[1].write_bytes(parts[1].read_bytes()[:100])  # cut off
    ask()
    assert len(loaded) == 2
    assert parts[0].stat().st_mtime_ns == stamp
    ask(k=5)  # another question: nothing of the old answers is left
    assert len(loaded) == 3
    assert parts[0].stat().st_mtime_ns != stamp
    assert not list(tmp_path.glob("*.tmp"))


def test_a_teacher_that_reads_otherwise_is_refused(models, tmp_path) -> None:
    tokenizer = tiny_tokenizer()
    more = tiny_tokenizer()
    more.add_tokens(["<extra>"])
    with pytest.raises(ModelError, match=r"tokenizer has 385 tokens, the student's 384"):
        check_tokenizers(Path("t"), more, tokenizer)
    other = tiny_tokenizer()
    other.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ModelError, match="chat template"):
        check_tokenizers(Path("t"), other, tokenizer)
    ends = tiny_tokenizer()
    ends.eos_token = "<|im_start|>"
    with pytest.raises(ModelError, match="ends answers with"):
        check_tokenizers(Path("t"), ends, tokenizer)
    with pytest.raises(ModelError, match="give both"):
        tune(
            candidate(*models),
            models[0],
            texts(4),
            texts(4),
            on_progress=lambda part: None,
            checkpoint_dir=tmp_path,
        )


def test_padding_of_the_teachers_table_changes_nothing(models, examples, tmp_path) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(models[1], wide)
    model = load_model(models[1], tiny_tokenizer())
    model.resize_token_embeddings(448)
    model.save_pretrained(wide)
    few = examples[:3]
    said = logits(models[0], batch_of([few], 0))
    narrow, padded = (
        scored(tmp_path / name, folder, few).divergences(range(3), said, TOKENS, "jsd", beta=0.3, skew=0.1)
        for name, folder in (("a", models[1]), ("b", wide))
    )
    assert torch.allclose(narrow, padded, atol=1e-5)


def test_soft_and_hard_losses_are_blended_and_keep_their_size(models, examples, tmp_path) -> None:
    few = [Encoded(one.ids, one.answer_at, 2.0) for one in examples[:3]]
    batch = batch_of([few], 0)
    given = candidate(*models, distill_temperature=2.0, hard_weight=0.25)
    said = logits(models[0], batch)
    lesson = soft(given, scored(tmp_path, models[1], few, t=2.0), TOKENS)
    p, q = (log_probabilities(one, 2.0) for one in (logits(models[1], batch), said))
    right = torch.log_softmax(said, dim=-1).gather(-1, batch.targets.unsqueeze(-1))
    wanted = 2.0 * (0.25 * -right.sum() + 0.75 * 4.0 * forward_kl(p, q).sum())
    assert lesson(said, batch, range(3), few).item() == pytest.approx(wanted.item(), rel=1e-4)
    assert hard(said, batch, range(3), few).item() == pytest.approx(-2.0 * right.sum().item(), rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_drawn_losses_are_those_of_trls_distillation_trainer(models, examples, beta) -> None:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    batch = batch_of([[one] for one in examples[:4]], 0)
    student, teacher = (load_model(one, tiny_tokenizer()).eval() for one in models)
    with torch.no_grad():
        ours, theirs = (states_of(model, batch).unsqueeze(0) for model in (student, teacher))
        expected = _chunked_divergence_loss(
            ours,
            theirs,
            student.get_output_embeddings().weight,
            teacher.get_output_embeddings().weight,
            torch.ones(ours.shape[:2], dtype=torch.long),
            beta,
        )[0]
        lesson = drawn(candidate(*models, objective="jsd", beta=beta, on_policy=1.0), LocalTeacher(teacher, TOKENS))
        found = lesson(logits_of(student, ours[0]), batch, range(4), examples) / len(batch.at)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("objective", "top_k"),
    [("forward_kl", 20), ("reverse_kl", None), ("jsd", 20), ("skew_kl", None), ("skew_reverse_kl", 20)],
)
def test_a_student_comes_near_its_teacher(models, examples, tmp_path, objective, top_k) -> None:
    batch = batch_of([examples[60:68]], 0)
    p = log_probabilities(logits(models[1], batch))
    before = divergence(objective, p, log_probabilities(logits(models[0], batch))).mean()
    tuned, seen = learn(tmp_path / "run", candidate(*models, objective=objective, top_k=top_k, epochs=3.0))
    with torch.no_grad():
        q = log_probabilities(logits_of(tuned.model, states_of(tuned.model, batch)))
    assert divergence(objective, p, q).mean() < 0.8 * before
    assert tuned.score_bytes_per_token > 0
    assert seen[-1].train_loss < seen[0].train_loss


def test_own_answers_are_drawn_by_the_seed_and_end(models, examples) -> None:
    model = load_model(models[1], tiny_tokenizer())
    model.resize_token_embeddings(448)

    def ask(seed: int) -> list[Encoded]:
        return draw(model, examples[:4], end=END, padding=END, vocabulary=TOKENS, longest=12, seed=[seed])

    first = ask(1)
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(first, ask(1), strict=True))
    assert any(not np.array_equal(a.ids, b.ids) for a, b in zip(first, ask(2), strict=True))
    for asked, answered in zip(examples[:4], first, strict=True):
        assert np.array_equal(answered.ids[: asked.answer_at], asked.ids[: asked.answer_at])
        said = answered.ids[answered.answer_at :]
        assert 1 <= len(said) <= 12
        assert (said < TOKENS).all()
        assert END not in said[:-1]
    shares = [sum(draws(share, 0, step) for step in range(400)) / 400 for share in (0.0, 0.3, 1.0)]
    assert shares == [0.0, pytest.approx(0.3, abs=0.06), 1.0]


@pytest.mark.parametrize("objective", ["reverse_kl", "minillm"])
def test_on_policy_learning_brings_a_students_own_answers_near_the_teacher(models, tmp_path, objective) -> None:
    student = tmp_path / "student"  # the teacher, shaken: it knows how answers begin, and no more
    shutil.copytree(models[1], student)
    shaken = load_model(models[1], tiny_tokenizer())
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in shaken.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    shaken.save_pretrained(student)
    given = candidate(student, models[1], objective=objective, on_policy=1.0, epochs=2.0, learning_rate=1e-3)
    tuned, _ = learn(tmp_path / "run", given)
    asked, _ = encode(tiny_tokenizer(), texts(48)[40:], 200)
    teacher = teacher_of(models[1])

    def apart(model) -> float:
        answers = draw(model.eval(), asked, end=END, padding=END, vocabulary=TOKENS, longest=8, seed=[5])
        batch = batch_of([[one] for one in answers], 0)
        with torch.no_grad():
            q = log_probabilities(logits_of(model, states_of(model, batch)))
            return float(forward_kl(q, teacher.log_probs(teacher.states(batch))).mean())

    assert apart(tuned.model) < 0.8 * apart(shaken)


def test_a_mixed_run_that_was_stopped_ends_as_one_that_was_not(models, tmp_path) -> None:
    given = candidate(*models, objective="jsd", on_policy=0.5, method="lora")
    whole, _ = learn(tmp_path / "whole", given)
    (tmp_path / "stopped").mkdir()

    class Stop(Exception):
        pass

    def stop(part: Progress) -> None:
        if part.fraction >= 0.5:
            raise Stop

    data = texts(40)
    with pytest.raises(Stop):
        tune(
            given,
            models[0],
            data[:-8],
            data[-8:],
            on_progress=stop,
            checkpoint_dir=tmp_path / "stopped",
            teacher=models[1],
        )
    resumed, seen = learn(tmp_path / "stopped", given)
    assert len(seen) == 2
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher_model": None}, "needs teacher_model"),
        ({"objective": "hard"}, "needs an objective other than hard"),
        ({"objective": "minillm"}, "set on_policy = 1"),
        ({"top_k": 10, "on_policy": 0.5}, "use one"),
        ({"method": "few_shot"}, "few_shot learns nothing"),
    ],
)
def test_rungs_that_contradict_themselves_are_refused(changes, said) -> None:
    with pytest.raises(ValueError, match=said):
        candidate(Path("s"), Path("t"), **changes)
