"""What every scheme is given: texts by place, the answers to them, and how to train on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.distill.fitting import Epoch, fit, shuffled
from stillhouse.distill.outputs import Outputs, shape_of
from stillhouse.distill.response.soft_targets import soft_target_loss
from stillhouse.models.port import ModelError


@dataclass(frozen=True, slots=True)
class Lesson:
    """n texts, known by their places 0 ... n - 1.

    `says(module, places)`: the outputs of a module for the texts at `places` int64 [B], with logits [B, L]. `hard`
    int64 [n]: the labels; `soft` float32 [n, L]: the teacher's probabilities, None where there is no teacher but the
    labels. `select(module)`: a loss on texts that do not teach; the epoch with the smallest is kept. `rate_of(name)`:
    times `rate` for the parameter of that name (a head that knows nothing takes larger steps). The loss of single texts
    is alpha CE + (1 - alpha) T^2 KL, as `soft_target_loss` has it; without `soft` it is CE.

    Raises `ModelError` where `hard` and `soft` are not of the same texts.
    """

    says: Callable[[nn.Module, Tensor], Outputs]
    hard: Tensor
    soft: Tensor | None = None
    select: Callable[[nn.Module], float] | None = None
    epochs: int = 10
    rate: float = 1e-2
    rate_of: Callable[[str], float] = lambda name: 1.0
    batch_size: int = 32
    temperature: float = 2.0
    alpha: float = 0.2
    weight_decay: float = 0.0
    seed: int = 0
    threads: int = 1
    checkpoint_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.hard.dim() != 1 or not len(self.hard):
            raise ModelError(f"The labels are {shape_of(self.hard)}; a lesson takes [n] with n of at least 1.")
        if self.soft is not None and (self.soft.dim() != 2 or len(self.soft) != len(self.hard)):
            raise ModelError(f"The labels are {shape_of(self.hard)} and the teacher's {shape_of(self.soft)}.")

    def logits(self, module: nn.Module, places: Tensor) -> Tensor:
        """The module's logits [B, L] for the texts at `places`. Raises `ModelError` where it gives none."""
        found = self.says(module, places).logits
        if found is None:
            raise ModelError(f"{type(module).__name__} gives no logits; schemes need them.")
        return found

    def taught(self, logits: Tensor, places: Tensor, soft: Tensor | None = None) -> Tensor:
        """The loss of `logits` [B, L] for the texts at `places`, from `soft` [n, L] instead of the lesson's own."""
        soft = self.soft if soft is None else soft
        if soft is None:
            return functional.cross_entropy(logits.float(), self.hard[places])
        return soft_target_loss(logits, soft[places], self.hard[places], self.temperature, self.alpha)

    def probabilities(self, module: nn.Module) -> Tensor:
        """What `module` answers to every text, float32 [n, L], at temperature 1, in evaluation mode."""
        was = module.training
        module.eval()
        with torch.no_grad():
            parts = [functional.softmax(self.logits(module, places).float(), dim=-1) for places in self._everything()]
        module.train(was)
        return torch.cat(parts)

    def fit(
        self,
        module: nn.Module,
        loss_of: Callable[[Tensor, float], Tensor],
        *,
        name: str,
        on_epoch: Callable[[int], None] = lambda epoch: None,
        select: Callable[[], float] | None = None,
        given: Tensor | None = None,
    ) -> list[Epoch]:
        """Train `module` by `loss_of(places, done)`. `on_epoch(epoch)` is called before each; `name` names checkpoints.

        `select` stands for the lesson's own, where not one module learns but several; `given` is what else is learnt
        from, so that checkpoints of another run are not taken for this one's.
        """

        def batches_of(epoch: int, seed: int) -> Sequence[Tensor]:
            on_epoch(epoch)
            return shuffled(len(self.hard), self.batch_size, seed)

        folder = self.checkpoint_dir and self.checkpoint_dir / name
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        chosen = self.select
        return fit(
            module,
            batches_of,
            loss_of,
            epochs=self.epochs,
            rate=self.rate,
            rate_of=self.rate_of,
            seed=self.seed,
            select=select or (None if chosen is None else lambda: chosen(module)),
            weight_decay=self.weight_decay,
            threads=self.threads,
            checkpoint_dir=folder,
            run=self._run(name, module, given) if folder else name,
        )

    def _everything(self) -> list[Tensor]:
        return [torch.arange(start, min(start + 256, len(self.hard))) for start in range(0, len(self.hard), 256)]

    def _run(self, name: str, module: nn.Module, given: Tensor | None) -> str:
        """Names a run by everything that its weights follow from, but for what `says` does."""
        rates = [self.rate * self.rate_of(name) for name, _ in module.named_parameters()]
        facts = (self.epochs, rates, self.batch_size, self.temperature, self.alpha, self.weight_decay, self.seed)
        digest = hashlib.sha256(repr(facts).encode())
        for tensor in (self.hard, self.soft, given, *module.state_dict().values()):
            if tensor is not None:
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"{name} {digest.hexdigest()}"


def direct(student: nn.Module, lesson: Lesson, soft: Tensor | None = None, name: str = "direct") -> list[Epoch]:
    """Offline distillation, what every scheme is compared with: the student learns from stored answers alone.

    `soft` [n, L] stands for the lesson's own (an ensemble's answers, an assistant's).

    >>> x, hard = torch.eye(2).repeat(8, 1), torch.arange(2).repeat(8)
    >>> student = nn.Linear(2, 2)
    >>> lesson = Lesson(lambda module, places: Outputs(module(x[places])), hard, epochs=20, rate=0.1)
    >>> _ = direct(student, lesson)
    >>> lesson.probabilities(student).argmax(1).tolist() == hard.tolist()
    True
    """

    def loss_of(places: Tensor, done: float) -> Tensor:
        return lesson.taught(lesson.logits(student, places), places, soft)

    return lesson.fit(student, loss_of, name=name, given=soft)
