"""Maps of layers in recipes: which pairs they make, in Python and in the trainer, and what is refused."""

from __future__ import annotations

import pytest
import torch

from stillhouse.distill import teaching
from stillhouse.distill.cut_encoder import CutEncoder, load_transformer
from stillhouse.distill.features.capture import capture
from stillhouse.distill.features.hidden_states import hidden_mse
from stillhouse.distill.features.layer_pairs import paired
from stillhouse.distill.outputs import Outputs
from stillhouse.distill.recipe import Recipe
from stillhouse.distill.teaching import LAYER, EncoderSide, Teaching
from stillhouse.distill.training import inputs_of
from stillhouse.models.port import ModelError
from stillhouse.tasks.distillation import AttentionTransfer, HiddenStates, SelfAttention
from tests.unit.distill.checks import drawn, gradient_is_right, probabilities
from tests.unit.distill.test_recipe import Killed, run

OURS, THEIRS = ("s.0", "s.1", "s.2"), tuple(f"t.{i}" for i in range(6))
B, N = 3, 4
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
STUDENT = Outputs(states={path: drawn(B, N, 6, seed=i) for i, path in enumerate(OURS)}, mask=MASK)
TEACHER = Outputs(states={path: drawn(B, N, 8, seed=9 + i) for i, path in enumerate(THEIRS)}, mask=MASK)
NONE = torch.zeros(B, dtype=torch.int64)


def mse(layers) -> HiddenStates:
    return HiddenStates(kind="hidden_mse", weight=0.5, layers=layers)


def places(terms) -> list[tuple[int, int]]:
    return [(int(term.student[2:]), int(term.teacher[2:])) for term in terms]


def test_each_map_pairs_the_layers_that_learn() -> None:
    assert places(paired(mse("uniform"), OURS, THEIRS)) == [(0, 1), (1, 3), (2, 5)]
    assert places(paired(mse("uniform"), OURS, THEIRS, learn=2)) == [(1, 3), (2, 5)]
    assert places(paired(mse("last"), OURS, THEIRS, learn=2)) == [(1, 4), (2, 5)]
    of_layers = {path: TEACHER.states[other] @ drawn(8, 8) for path, other in (("s.1", "t.0"), ("s.2", "t.4"))}
    found = paired(mse("searched"), OURS, THEIRS, learn=2, ours=Outputs(states=of_layers, mask=MASK), theirs=TEACHER)
    assert places(found) == [(1, 0), (2, 4)]
    assert all(term.weight == 0.5 and term.layers is None for term in found)
    named = AttentionTransfer(student="s.1", teacher="t.1")
    assert paired(named, OURS, THEIRS) == [named]


def test_what_padding_holds_does_not_change_what_is_searched() -> None:
    wild = {path: states.masked_fill(MASK[..., None] == 0, 1e3) for path, states in STUDENT.states.items()}
    plain, padded = (
        paired(mse("searched"), OURS, THEIRS, ours=ours, theirs=TEACHER)
        for ours in (STUDENT, Outputs(states=wild, mask=MASK))
    )
    assert plain == padded


def test_a_recipe_of_pairs_is_the_sum_over_the_pairs_and_its_gradient_is_the_numerical_one() -> None:
    torch.manual_seed(0)
    recipe = Recipe(paired(mse("uniform"), OURS, THEIRS), STUDENT, TEACHER).double()
    wanted = sum(
        0.5 * hidden_mse(recipe.learnt[str(at)](STUDENT.states[ours]), TEACHER.states[theirs], MASK)
        for at, (ours, theirs) in enumerate([("s.0", "t.1"), ("s.1", "t.3"), ("s.2", "t.5")])
    )
    assert recipe(STUDENT, TEACHER, NONE).item() == pytest.approx(wanted.item(), rel=1e-12)

    def loss(states: torch.Tensor) -> torch.Tensor:
        return recipe(Outputs(states=dict(zip(OURS, states, strict=True)), mask=MASK), TEACHER, NONE)

    assert gradient_is_right(loss, torch.stack([STUDENT.states[path] for path in OURS]))


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: paired(mse("uniform"), THEIRS, OURS), "6 layers cannot be mapped on a teacher of 3"),
        (lambda: paired(mse("last"), OURS, THEIRS, learn=4), "Of 3 layers, 4 cannot learn"),
        (lambda: paired(mse("searched"), OURS, THEIRS), "states of 's.0' of the student, which were not captured"),
        (
            lambda: paired(mse("searched"), OURS, THEIRS, ours=STUDENT, theirs=Outputs(states=TEACHER.states)),
            r"States \[9, 6\] and \[12, 8\] are not of the same texts",
        ),
        (lambda: Recipe([mse("last")], STUDENT, TEACHER), "layers = 'last'; `paired` makes terms of it"),
        (
            lambda: Recipe(
                [HiddenStates(kind="hidden_mse", student="s.1", teacher="t")],
                STUDENT,
                Outputs(states={"t": torch.zeros(B, N - 1, 8)}),
            ),
            r"'s.1' of the student, which is \[3, 4, 6\], with 't' of the teacher, which is \[3, 3, 8\]; texts and tok",
        ),
        (
            lambda: Recipe(
                [AttentionTransfer(student="v", teacher="v")],
                Outputs(states={"v": torch.zeros(B, 8)}),
                Outputs(states={"v": torch.zeros(B, 8)}),
            ),
            r"'v' of the student, which is \[3, 8\]",
        ),
        (
            lambda: Recipe(
                [SelfAttention(student="s", teacher="t", parts=("attention",))],
                Outputs(attention={"s.attention.self": probabilities(B, 2, N, N)}),
                Outputs(attention={"t.attention.self": probabilities(B, 3, N, N)}),
            ),
            r"which is \[3, 2, 4, 4\], with .* which is \[3, 3, 4, 4\]; texts, heads and tokens must be the same",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_refused_with_their_shapes(ask, said) -> None:
    with pytest.raises(ModelError, match=said):
        ask()


def test_the_layers_that_learn_run_live_above_what_is_computed_once() -> None:
    torch.manual_seed(0)
    module = CutEncoder(3, 2, learn=2).eval()
    ids, mask = torch.tensor([[101, 2026, 7, 102], [101, 8, 102, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    layers = module.transformer.encoder.layer
    assert [any(p.requires_grad for p in layer.parameters()) for layer in layers] == [False, True, True]
    with capture(module, [f"{LAYER}.{i}" for i in range(3)]) as whole:
        logits, _ = module(ids, mask)
    lower = module.lower(ids, mask)
    with capture(module, [f"{LAYER}.{i}" for i in range(3)]) as above:
        assert torch.equal(module(lower, mask)[0], logits)
    assert torch.equal(lower, whole.outputs[f"{LAYER}.0"])
    assert above.outputs.keys() == {f"{LAYER}.1", f"{LAYER}.2"}
    with pytest.raises(ModelError, match="Of 2 layers, 3 cannot learn"):
        CutEncoder(2, 2, learn=3)


ASKED = ["my parcel is late", "the refund of the money that i was charged", "is it in stock"]


def taught(*terms, learn=2) -> Teaching:
    module = CutEncoder(3, 3, learn=learn)
    ids = [one.numpy() for one in EncoderSide([], ASKED).ids]
    soft = probabilities(len(ASKED), 3).float()
    example = inputs_of(ids, tokens=True)
    return Teaching(terms, module, ("a", "b", "c"), ASKED, soft, soft.argmax(dim=-1), None, example)


def test_the_trainer_finds_the_pairs_of_its_student() -> None:
    uniform = taught(mse("uniform"))
    assert [(term.student, term.teacher) for term in uniform.terms] == [
        (f"{LAYER}.1", teaching.TEACHER[3]),
        (f"{LAYER}.2", teaching.TEACHER[5]),
    ]
    # Cut from its teacher and untaught, each layer is most like itself.
    assert [term.teacher for term in taught(mse("searched")).terms] == [teaching.TEACHER[1], teaching.TEACHER[2]]
    assert [term.teacher for term in taught(mse("last"), learn=1).terms] == [teaching.TEACHER[5]]
    named = HiddenStates(kind="hidden_mse", student=f"{LAYER}.1", teacher=teaching.TEACHER[0])
    assert taught(named).terms == (named,)


def test_what_is_kept_of_the_teacher_is_counted_by_the_widths_of_its_layers(monkeypatch) -> None:
    """An inner layer is four times as wide as what it gives, and counts as much against the limit."""
    inner = [HiddenStates(kind="hidden_mse", teacher=f"{teaching.TEACHER[1]}.intermediate")]
    tokens = sum(len(one) for one in EncoderSide([], ASKED).ids)
    exact = 4 * (384 * len(ASKED) + 1536 * tokens)
    monkeypatch.setattr(teaching, "MOST_BYTES", exact)
    side = EncoderSide(inner, ASKED)
    held = sum(row[0].nbytes + sum(states.nbytes for states in row[1].values()) for row in side.kept.values())
    assert held == exact
    monkeypatch.setattr(teaching, "MOST_BYTES", exact - 1)
    assert not EncoderSide(inner, ASKED).kept
    with pytest.raises(ModelError, match=r"layer.5' of the encoder is needed, which was not read"):
        side.among([0], [HiddenStates(kind="hidden_mse", teacher=teaching.TEACHER[5])])


def test_a_student_learns_from_a_map_and_a_killed_run_ends_as_if_it_had_not_been(tmp_path) -> None:
    fields = {
        "architecture": "cut_encoder",
        "layers": 3,
        "learn_layers": 2,
        "epochs": 3,
        "learning_rate": None,
        "distill": (
            {"kind": "hard_labels"},
            {"kind": "hidden_mse", "layers": "uniform"},
            {"kind": "minilm", "layers": "last", "parts": ["values"], "weight": 0.1},
        ),
    }
    whole, said = run(tmp_path / "whole", **fields)
    assert said[-1].train_loss < said[0].train_loss
    assert max(one.select_agreement for one in said) > 0.85
    came, layers = load_transformer().encoder.layer, whole.module.transformer.encoder.layer
    changed = [not torch.equal(ours.output.dense.weight, came[i].output.dense.weight) for i, ours in enumerate(layers)]
    assert changed == [False, True, True]
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_after=2, **fields)
    resumed, said = run(tmp_path / "killed", **fields)
    assert [one.epoch for one in said] == [3]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name])
