"""Recipes: what a task file declares is what is minimised, in the trainer as in Python."""

from __future__ import annotations

import pytest
import torch

from stillhouse.distill import static_embeddings, teaching
from stillhouse.distill.cut_encoder import load_transformer
from stillhouse.distill.features.hidden_states import hidden_mse
from stillhouse.distill.outputs import Outputs
from stillhouse.distill.recipe import Recipe
from stillhouse.distill.relations.relational import angle_loss, distance_loss
from stillhouse.distill.relations.similarity_preserving import similarity_loss
from stillhouse.distill.response.decoupled import decoupled_loss
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.distill.training import Progress, train
from stillhouse.models.port import ModelError
from stillhouse.tasks import StudentCandidate
from stillhouse.tasks.distillation import (
    AttentionTransfer,
    Contrastive,
    Correlation,
    Decoupled,
    HardLabels,
    HiddenStates,
    Relational,
    SelfAttention,
    SimilarityPreserving,
    SoftTargets,
    StandardisedLogits,
)
from stillhouse.tasks.loading import TaskFileError, load_task
from tests.unit.distill.checks import drawn, probabilities
from tests.unit.distill.toy import LABELS, texts

B, L, N = 5, 3, 4
SOFT, HARD = probabilities(B, L).float(), torch.tensor([0, 2, 1, 1, 0])
LAYER = "layer"
PARTS = [f"{LAYER}.attention.self.{part}" for part in ("query", "key", "value")]


def outputs(width: int, seed: int, logits) -> Outputs:
    return Outputs(
        logits,
        {path: drawn(B, N, width, seed=seed + i).float() for i, path in enumerate([LAYER, *PARTS])},
        {f"{LAYER}.attention.self": probabilities(B, 2, N, N, seed=seed).float()},
        drawn(B, width, seed=seed).float(),
        torch.ones(B, N, dtype=torch.int64),
    )


STUDENT, TEACHER = outputs(6, 1, drawn(B, L, seed=1).float()), outputs(8, 2, SOFT.log())
PATHS = {"student": LAYER, "teacher": LAYER}
EVERY = [
    HardLabels(weight=0.2, smoothing=0.1),
    SoftTargets(),
    StandardisedLogits(),
    Decoupled(),
    Correlation(),
    Relational(),
    SimilarityPreserving(),
    Contrastive(dim=4, queue=8),
    HiddenStates(kind="hidden_mse", **PATHS),
    HiddenStates(kind="hidden_cosine", **PATHS),
    AttentionTransfer(**PATHS),
    SelfAttention(**PATHS, heads=2, parts=("attention", "queries", "keys", "values")),
]


def test_a_recipe_is_the_weighted_sum_of_its_terms() -> None:
    assert len({term.kind for term in EVERY}) == len(EVERY)
    torch.manual_seed(0)
    recipe = Recipe(EVERY, STUDENT, TEACHER, texts=100).eval()
    parts = [recipe.loss_of(place, STUDENT, TEACHER, HARD) for place in range(len(EVERY))]
    whole = sum(term.weight * part for term, part in zip(EVERY, parts, strict=True))
    assert recipe(STUDENT, TEACHER, HARD).item() == pytest.approx(float(whole.detach()), rel=1e-6)
    ours, theirs = STUDENT.embedding, TEACHER.embedding
    expected = {
        3: decoupled_loss(STUDENT.logits, SOFT, HARD, 4.0, 1.0, 8.0),
        5: 25 * distance_loss(ours, theirs) + 50 * angle_loss(ours, theirs),
        6: similarity_loss(ours, theirs),
        8: hidden_mse(recipe.learnt["8"](STUDENT.states[LAYER]), TEACHER.states[LAYER]),
    }
    for place, value in expected.items():
        assert parts[place].item() == pytest.approx(value.item(), rel=1e-5)
    assert len(list(recipe.parameters())) == 2 * 2 + 2 * 2  # two projections, and the contrast's two


def test_hard_and_soft_targets_are_the_default_objective() -> None:
    recipe = Recipe([HardLabels(weight=0.3), SoftTargets(weight=0.7, temperature=3.0)], STUDENT, TEACHER)
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    for weights in (None, weight):
        expected = soft_target_loss(STUDENT.logits, SOFT, HARD, 3.0, 0.3, weights)
        assert recipe(STUDENT, TEACHER, HARD, weights).item() == pytest.approx(expected.item(), rel=1e-5)


def test_blending_by_class_is_class_weights() -> None:
    """alpha of a label is the class weight of its hard labels, and 1 - alpha that of its soft ones."""
    alphas = {"order": 0.1, "refund": 0.9, "stock": 0.5}
    terms = [
        HardLabels(class_weight=alphas),
        SoftTargets(class_weight={label: 1 - alpha for label, alpha in alphas.items()}),
    ]
    recipe = Recipe(terms, STUDENT, TEACHER, labels=LABELS)
    of_rows = torch.tensor([alphas[LABELS[place]] for place in HARD])
    expected = soft_target_loss(STUDENT.logits, SOFT, HARD, 2.0, of_rows)
    assert recipe(STUDENT, TEACHER, HARD).item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ModelError, match="'refund'"):
        Recipe(terms, STUDENT, TEACHER, labels=("order", "stock"))


def test_what_a_teacher_left_out_is_borne_by_every_term_on_answers() -> None:
    left_out = Outputs(torch.tensor([[0.9, 0.1, 0.0]] * B).log())
    for term in EVERY[:5]:
        student = Outputs(STUDENT.logits.clone().requires_grad_())
        Recipe([term], student, left_out)(student, left_out, HARD).backward()
        assert torch.isfinite(student.logits.grad).all()


@pytest.mark.parametrize(
    ("terms", "student", "teacher", "said"),
    [
        ([], STUDENT, TEACHER, "at least one term"),
        ([Relational()], STUDENT, Outputs(SOFT.log()), "rkd needs a vector a text, which the teacher lacks"),
        ([SoftTargets()], Outputs(), TEACHER, "soft_targets needs logits, which the student does not give"),
        ([HiddenStates(kind="hidden_mse")], STUDENT, TEACHER, "names no layer of the student"),
        ([AttentionTransfer(student="no", teacher=LAYER)], STUDENT, TEACHER, "needs 'no' of the student"),
    ],
)
def test_what_is_missing_is_said(terms, student, teacher, said) -> None:
    with pytest.raises(ModelError, match=said):
        Recipe(terms, student, teacher)(student, teacher, HARD)


FILE = """
[task]
name = "t"
kind = "classify"
labels = ["order", "refund", "stock"]

[teacher]
kind = "ensemble"
seed = "seed.jsonl"
usd_per_call = 0.001

[[student]]
architecture = "{architecture}"
{more}

[[student.distill]]
{term}
"""


def loaded(tmp_path, term, architecture="hashed_ngrams", more=""):
    (tmp_path / "seed.jsonl").write_text('{"text": "a", "label": "order"}\n')
    path = tmp_path / "t.toml"
    path.write_text(FILE.format(term=term, architecture=architecture, more=more))
    return load_task(path)


def test_a_task_file_declares_terms(tmp_path) -> None:
    task = loaded(tmp_path, 'kind = "soft_targets"\nweight = 0.8\ntemperature = 3\n[[student.distill]]\nkind = "rkd"')
    assert task.students[0].distill == (SoftTargets(weight=0.8, temperature=3.0), Relational())


@pytest.mark.parametrize(
    ("term", "more", "said"),
    [
        ('kind = "soft_target"', "", r"t.toml: student\.0\.distill\.0: .*'soft_targets'"),
        ("weight = 1.0", "", r"student\.0\.distill\.0: .*kind"),
        ('kind = "dkd"\nbeta = -1', "", r"student\.0\.distill\.0\.beta: .*greater than or equal to 0.*got -1"),
        ('kind = "dkd"\ntemprature = 2', "", r"student\.0\.distill\.0\.temprature: there is no such key"),
        ('kind = "dkd"', "alpha = 0.5", "alpha says nothing beside .*move it into the terms"),
        ('kind = "minilm"', "", "minilm needs hidden layers, which hashed_ngrams does not have; remove it"),
    ],
)
def test_a_term_that_cannot_be_is_refused_in_one_sentence(tmp_path, term, more, said) -> None:
    with pytest.raises(TaskFileError, match=said) as refused:
        loaded(tmp_path, term, more=more)
    assert "\n" not in str(refused.value)


SMALL = {"buckets": 1 << 12, "dim": 16, "batch_size": 16, "epochs": 3, "learning_rate": 0.01}


class Killed(Exception):
    """Stands for the process being killed."""


def run(folder, *, kill_after=None, **fields):
    folder.mkdir(exist_ok=True)
    said: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        said.append(progress)
        if progress.epoch == kill_after:
            raise Killed

    candidate = StudentCandidate(**{"architecture": "hashed_ngrams"} | SMALL | fields)
    trained = train(
        candidate, LABELS, texts(96), texts(45, seed=1), on_progress=on_progress, checkpoint_dir=folder, seed=1
    )
    return trained, said


def test_the_trainer_minimises_the_recipe_of_a_task_file(tmp_path) -> None:
    """The terms that make the default objective give, to rounding, the student that the default gives."""
    default, _ = run(tmp_path / "a")
    terms = ({"kind": "hard_labels", "weight": 0.2}, {"kind": "soft_targets", "weight": 0.8})
    same, _ = run(tmp_path / "b", distill=terms)
    for name, value in default.module.state_dict().items():
        assert same.module.state_dict()[name].numpy() == pytest.approx(value.numpy(), abs=1e-3)
    other, _ = run(tmp_path / "c", distill=({"kind": "hard_labels"},))
    assert not torch.allclose(other.module.head.weight, default.module.head.weight, atol=1e-3)


@pytest.mark.parametrize("kind", ["standardised_logits", "dkd", "dist", "soft_targets"])
def test_a_student_learns_by_answers_alone(tmp_path, kind) -> None:
    _, said = run(tmp_path / "a", distill=({"kind": kind},), epochs=15)
    assert max(one.select_agreement for one in said) > 0.85
    assert said[-1].train_loss < said[0].train_loss


def test_a_killed_run_with_projections_and_a_queue_goes_on_to_the_same_student(tmp_path) -> None:
    recipe = {"distill": ({"kind": "hard_labels"}, {"kind": "crd", "dim": 8, "queue": 40})}
    whole, _ = run(tmp_path / "whole", **recipe)
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_after=2, **recipe)
    resumed, said = run(tmp_path / "killed", **recipe)
    assert [one.epoch for one in said] == [3]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name])


def test_an_encoder_learns_from_the_layers_of_the_whole_one(tmp_path) -> None:
    settings = {"architecture": "cut_encoder", "layers": 2, "epochs": 2, "learning_rate": None}
    trained, said = run(
        tmp_path / "a",
        distill=(
            {"kind": "hard_labels"},
            {"kind": "hidden_cosine"},
            {"kind": "attention_transfer"},
            {"kind": "minilm", "parts": ["attention", "queries", "keys", "values"]},
        ),
        **settings,
    )
    assert said[-1].train_loss < said[0].train_loss
    assert max(one.select_agreement for one in said) > 0.85
    assert not trained.module._forward_hooks


def test_what_the_encoder_says_is_the_same_kept_read_again_or_taken_from_more_texts(monkeypatch) -> None:
    asked = ["my parcel is late", "please", "the refund of the money that i was charged"]
    layer = "transformer.encoder.layer.5"
    terms = [HiddenStates(kind="hidden_mse", teacher=layer), SelfAttention(teacher=layer)]
    kept = teaching.EncoderSide(terms, asked)
    among = teaching.EncoderSide(terms, ["hello", *asked]).among([1, 2, 3], terms)
    monkeypatch.setattr(teaching, "MOST_BYTES", 0)
    again = teaching.EncoderSide(terms, asked)
    assert kept.kept
    assert not again.kept
    places = torch.tensor([2, 0])
    first, *others = (side.outputs(places, torch.zeros(2, 3)) for side in (kept, among, again))
    for other in others:
        assert torch.equal(first.mask, other.mask)
        assert other.embedding.numpy() == pytest.approx(first.embedding.numpy(), abs=1e-5)
        real = first.mask.bool()
        assert first.states.keys() == other.states.keys() == {layer, f"{layer}.attention.self.value"}
        for path, states in first.states.items():
            assert other.states[path][real].numpy() == pytest.approx(states[real].numpy(), abs=1e-5)
        for path, maps in first.attention.items():
            of_real = maps.transpose(1, 2)[real]
            assert other.attention[path].transpose(1, 2)[real].numpy() == pytest.approx(of_real.numpy(), abs=1e-5)


@pytest.mark.parametrize("architecture", ["static_embeddings", "text_cnn"])
def test_students_without_layers_learn_from_relations(tmp_path, monkeypatch, architecture) -> None:
    """Their vector of a text is what their head is given, however they make it."""
    # Every token's own input vector: sending the whole vocabulary through the encoder takes 40 s.
    table = load_transformer().embeddings.word_embeddings.weight.detach()
    monkeypatch.setattr(static_embeddings, "encoded_vocabulary", lambda: table)
    terms = ({"kind": "hard_labels"}, {"kind": "rkd", "weight": 0.05}, {"kind": "similarity_preserving"})
    fields = {"architecture": architecture, "distill": terms, "learning_rate": None, "epochs": 4, "dim": 64}
    _, said = run(tmp_path / "a", **fields)
    assert said[-1].train_loss < said[0].train_loss
