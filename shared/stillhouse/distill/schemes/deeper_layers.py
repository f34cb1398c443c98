"""Self-distillation from deeper layers: shallow exits learn from the deepest (Zhang et al. 1905.08094).

Beside the student's own head C, each named layer gets an exit i: mean pooling and a linear head, thrown away after
training. The sum over exits (equations 1, 3 and 4 of the paper, with T^2 so that its gradient does not fade with T) is

    lesson_C + sum over i < C of (1 - share) lesson_i + share T^2 KL(p_C || p_i) + hint |F_i - F_C|^2,

F being pooled states, the mean over their width. No gradient flows from an exit into the deepest answer: deeper layers
teach, and learn from the shallow ones only through what they share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.fitting import Epoch
from stillhouse.distill.outputs import Outputs, at_least_float32, require_same_shape, shape_of
from stillhouse.distill.schemes.lesson import Lesson
from stillhouse.models.port import ModelError


def from_deepest(shallow: Tensor, deepest: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p_C || p_i), nats a text, of an exit's and the deepest logits [B, L]; no gradient reaches the deepest.

    >>> float(from_deepest(torch.zeros(1, 2), torch.zeros(1, 2)))
    0.0
    """
    require_same_shape("logits", shallow, deepest, 2)
    own = functional.log_softmax(at_least_float32(shallow) / temperature, dim=-1)
    teacher = functional.log_softmax(at_least_float32(deepest.detach()) / temperature, dim=-1)
    return temperature**2 * functional.kl_div(own, teacher, reduction="batchmean", log_target=True)


def hint_loss(shallow: Tensor, deepest: Tensor) -> Tensor:
    """The mean square of F_i - F_C, pooled states [B, width] each; no gradient reaches the deepest.

    >>> float(hint_loss(torch.zeros(1, 2), torch.ones(1, 2)))
    1.0
    """
    require_same_shape("pooled states", shallow, deepest, 2)
    return (at_least_float32(shallow) - at_least_float32(deepest.detach())).pow(2).mean()


def pooled(outputs: Outputs, layer: str) -> Tensor:
    """The mean of a layer's states over real tokens, [B, width]. Raises `ModelError` for a layer that is not there."""
    states = outputs.states.get(layer)
    if states is None:
        raise ModelError(f"The student gives no states of {layer!r}; it gives {', '.join(outputs.states) or 'none'}.")
    if states.dim() != 3:
        raise ModelError(f"The states of {layer!r} are {shape_of(states)}; an exit takes [texts, tokens, width].")
    if outputs.mask is None:
        return states.mean(dim=1)
    weights = outputs.mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def from_deeper_layers(
    student: nn.Module,
    lesson: Lesson,
    exits: Sequence[str],
    *,
    share: float = 0.5,
    hint: float = 0.03,
    temperature: float = 3.0,
) -> tuple[list[Epoch], Mapping[str, nn.Module]]:
    """Train `student` with an exit at each of the layers `exits`, whose states `lesson.says` gives by these names.

    Gives the epochs and the exits' heads, which answer early where latency counts (`head(pooled(outputs, layer))`).
    A hint needs the states of `exits` to be as wide as the student's `embedding`; 0 leaves it out.

    >>> x, hard = torch.eye(2).repeat(8, 1), torch.arange(2).repeat(8)
    >>> student = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> def says(module, places):
    ...     states = module[:2](x[places])
    ...     return Outputs(module[2](states), states={"1": states[:, None]}, embedding=states)
    >>> lesson = Lesson(says, hard, epochs=30, rate=0.1)
    >>> _, heads = from_deeper_layers(student, lesson, ["1"])
    >>> bool((lesson.probabilities(student).argmax(1) == hard).all()), list(heads)
    (True, ['1'])
    >>> heads["1"](pooled(says(student, torch.arange(3)), "1")).shape  # what the early exit answers
    torch.Size([3, 2])
    """
    if not 0.0 <= share <= 1.0 or hint < 0.0:
        raise ModelError(f"share = {share:g} and hint = {hint:g}; give a share from 0 to 1 and a hint of 0 or more.")
    if not exits:
        raise ModelError("There is no exit; name at least one layer that is not the last.")
    with torch.no_grad():
        first = lesson.says(student, torch.arange(1))
    if first.logits is None:
        raise ModelError("The student gives no logits; schemes need them.")
    device = first.logits.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        heads = [nn.Linear(pooled(first, layer).shape[1], first.logits.shape[1]).to(device) for layer in exits]

    def loss_of(places: Tensor, done: float) -> Tensor:
        outputs = lesson.says(student, places)
        assert outputs.logits is not None
        loss = lesson.taught(outputs.logits, places)
        for layer, head in zip(exits, heads, strict=True):
            feature = pooled(outputs, layer)
            said = head(feature)
            loss = loss + (1 - share) * lesson.taught(said, places)
            loss = loss + share * from_deepest(said, outputs.logits, temperature)
            if hint:
                if outputs.embedding is None:
                    raise ModelError("A hint needs the student's embedding, which it does not give; set hint to 0.")
                loss = loss + hint * hint_loss(feature, outputs.embedding)
        return loss

    chosen = lesson.select
    together = nn.ModuleList([student, *heads])
    epochs = lesson.fit(
        together, loss_of, name="deeper-layers", select=None if chosen is None else lambda: chosen(student)
    )
    return epochs, dict(zip(exits, heads, strict=True))
