"""The training loop that methods and schemes share: any torch module, any batches, any loss. Deterministic.

AdamW (Loshchilov & Hutter 1711.05101) with linear warm-up and cosine decay (1608.03983). What a batch is and what is
minimised are the caller's: `fit` knows steps, epochs, choosing an epoch, checkpoints and precision. Where several
modules learn together (mutual learning, projections beside a student), they are passed as one `nn.ModuleList`.

Under torchrun (`torch.distributed` initialised) the batches of each step are shared out among the processes and
gradients are summed, so that the number of processes changes nothing but rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from stillhouse.distill.checkpoint import Checkpoints, RunState, changing
from stillhouse.models.port import ModelError

WARM_UP: Final = 0.1  # of all steps
PATIENCE: Final = 3  # epochs without a better one

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch's end: the mean of its losses, what `select` said (None without it), the rate, seconds so far.

    `training_s`: wall seconds of its steps alone.
    """

    epoch: int
    epochs: int
    train_loss: float
    select_loss: float | None
    learning_rate: float
    seconds: float
    training_s: float


def fit(
    module: nn.Module,
    batches_of: Callable[[int, int], Sequence[Batch]],
    loss_of: Callable[[Batch, float], Tensor],
    *,
    epochs: int,
    rate: float,
    seed: int,
    select: Callable[[], float] | None = None,
    patience: int = PATIENCE,
    keep_start: bool = False,
    rate_of: Callable[[str], float] = lambda name: 1.0,
    weight_decay: float = 0.01,
    warm_up: float = WARM_UP,
    accumulate: int = 1,
    clip: float | None = None,
    bf16: bool = False,
    threads: int = 1,
    checkpoint_dir: Path | None = None,
    run: str = "",
    on_progress: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Change what learns in `module` so that `loss_of` gets smaller; gives its epochs, `module` keeps the best weights.

    `batches_of(epoch, seed)` gives the batches of an epoch (from 0), the same for the same arguments, and as many in
    each. `loss_of(batch, done)` is a scalar, in training mode; `done` in [0, 1) is the share of steps done, for
    schedules. `select()` is a loss on what teaches nothing, asked in evaluation mode without gradients after each
    epoch: the epoch with the smallest is kept, and training stops after `patience` epochs without a smaller one.
    Without it the last epoch is kept. `keep_start`: the state before the first is asked about and may be kept, too.

    `rate_of(name)` multiplies the rate of a parameter. `accumulate`: batches whose losses are averaged into one step.
    `clip`: largest norm of a step's gradient. `bf16`: the loss is computed under autocast to bfloat16, weights and
    steps stay as they are. `checkpoint_dir` must exist: a run of the same name `run` that was stopped there goes on
    where it was, to the same weights to the bit. Raises `ModelError` where the loss is not finite, and `OSError`.

    >>> line = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> epochs = fit(
    ...     line,
    ...     lambda epoch, seed: shuffled(32, 8, seed),
    ...     lambda places, done: (line(x[places]) - 3 * x[places]).pow(2).mean(),
    ...     epochs=60,
    ...     rate=0.1,
    ...     seed=0,
    ... )
    >>> round(line.weight.item(), 1)
    3.0
    """
    rank, world = _place()
    if accumulate < world:
        raise ModelError(f"A step has {accumulate} batches for {world} processes; set accumulate to {world} or more.")
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise ModelError("Nothing in the module learns: no parameter asks for a gradient.")
    parameters = [parameter for _, parameter in named]
    peaks = [rate * rate_of(name) for name, _ in named]
    device = parameters[0].device.type
    optimizer = torch.optim.AdamW(
        [{"params": [parameter], "lr": peak} for parameter, peak in zip(parameters, peaks, strict=True)],
        weight_decay=weight_decay,
        fused=True,
    )
    checkpoints = Checkpoints(checkpoint_dir, run) if checkpoint_dir is not None else None
    state = checkpoints.resume(module, optimizer) if checkpoints else RunState(run)
    if world > 1:
        for value in changing(module).values():
            distributed.broadcast(value.detach(), 0)
    best: dict[str, Tensor] = {}
    said: list[Epoch] = []
    earlier, started = state.seconds, time.monotonic()

    def ask() -> float | None:
        if select is None:
            return None
        module.eval()
        with torch.no_grad():
            return _from_all(select(), world) / world

    with torch_set_up(threads):
        if keep_start and state.epoch == 0 and (found := ask()) is not None:
            state.best_loss, best = found, _copy(module) if checkpoints is None else {}
            if checkpoints and rank == 0:
                checkpoints.save(state, module, optimizer)
        while state.epoch < epochs and (select is None or state.epoch - state.best_epoch < patience):
            # Each epoch draws from a generator of its own, so a resumed run needs no generator's state.
            begun, drawn = time.monotonic(), mixed(seed, state.epoch)
            torch.manual_seed(drawn)
            module.train()
            batches = batches_of(state.epoch, drawn)
            per_epoch = math.ceil(len(batches) / accumulate)
            step, steps, total = state.epoch * per_epoch, epochs * per_epoch, 0.0
            for start in range(0, len(batches), accumulate):
                group = batches[start : start + accumulate]
                optimizer.zero_grad()
                for batch in group[rank::world]:
                    with torch.autocast(device, torch.bfloat16, enabled=bf16):
                        loss = loss_of(batch, step / steps)
                    (loss / len(group)).backward()  # type: ignore[no-untyped-call]
                    total += float(loss.detach())
                if world > 1:
                    _sum_gradients(parameters)
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                step += 1
                for settings, peak in zip(optimizer.param_groups, peaks, strict=True):
                    settings["lr"] = peak * schedule(step, steps, warm_up)
                optimizer.step()
            total = _from_all(total, world)
            training_s = time.monotonic() - begun
            if not math.isfinite(total):
                raise ModelError(f"Training diverged in epoch {state.epoch + 1}; set a learning_rate below {rate:g}.")
            state.epoch += 1
            found = ask()
            if found is None or found < state.best_loss or not (state.best_epoch or keep_start):
                state.best_epoch, state.best_loss = state.epoch, math.inf if found is None else found
                best = _copy(module) if checkpoints is None else {}
            state.seconds = earlier + time.monotonic() - started
            if checkpoints and rank == 0:
                checkpoints.save(state, module, optimizer)
            now = rate * schedule(step, steps, warm_up)
            said.append(Epoch(state.epoch, epochs, total / len(batches), found, now, state.seconds, training_s))
            if on_progress:
                on_progress(said[-1])
    if world > 1:
        distributed.barrier()  # until the first process has written the last checkpoint
    if checkpoints and state.epoch:
        checkpoints.load_best(state, module)
    elif state.epoch:
        with torch.no_grad():
            for name, value in changing(module).items():
                value.copy_(best[name])
    module.eval()
    return said


def shuffled(count: int, size: int, seed: int) -> list[Tensor]:
    """Places 0 ... count - 1 in random batches of at most `size`, each int64 [<= size].

    >>> sorted(int(place) for batch in shuffled(5, 2, seed=0) for place in batch)
    [0, 1, 2, 3, 4]
    """
    order = np.random.default_rng(seed).permutation(count)
    return [torch.from_numpy(order[start : start + size]) for start in range(0, count, size)]


def schedule(step: int, steps: int, warm_up: float = WARM_UP) -> float:
    """Share of the learning rate at step 1 ... steps: linear warm-up, then half a cosine (1608.03983) to 0.

    >>> [round(schedule(step, 10), 2) for step in (1, 5, 10)]
    [1.0, 0.59, 0.0]
    """
    warm = max(1, round(warm_up * steps))
    if step <= warm:
        return step / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def mixed(seed: int, epoch: int) -> int:
    """The seed of one epoch, or of whatever else is numbered, of a run with `seed`."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


@contextmanager
def torch_set_up(threads: int) -> Iterator[None]:
    """`threads` threads and a random generator of our own, both given back at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def _place() -> tuple[int, int]:
    """This process's number and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in changing(module).items()}


def _sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        if parameter.grad is None:  # another process's batch may have used it
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)


def _from_all(value: float, world: int) -> float:
    """The sum over processes."""
    if world == 1:
        return value
    held = torch.tensor(value, dtype=torch.float64)
    distributed.all_reduce(held)
    return float(held)
