"""A base model cut to the size that a rung asks for; what was lost is healed by learning afterwards.

Depth first, then width, each judged on texts of the task with the model as it then is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from stillhouse.distill.causal_lm.examples import Encoded
from stillhouse.distill.causal_lm.packing import SHORTEST_ROW, batch_of, pack
from stillhouse.distill.pruning.depth import keep_most_influential
from stillhouse.distill.pruning.width import narrow
from stillhouse.tasks.students import LanguageModel

TEXTS: Final = 64  # that importance is measured on; ShortGPT and Minitron use some hundred short ones


@dataclass(frozen=True, slots=True)
class Cut:
    """What pruning left: which layers, and of how many weights how many."""

    layers: tuple[int, ...]
    weights_before: int
    weights: int


def prune(model: Any, candidate: LanguageModel, texts: Sequence[Encoded], padding: int) -> Cut:
    """Leave out of `model`, in place, what `candidate` does not keep. Raises `ModelError` where it cannot be done."""
    texts = texts[:TEXTS]
    row = max(SHORTEST_ROW, max(len(text) for text in texts))
    rows = pack([len(text) for text in texts], row)
    device = next(model.parameters()).device
    batches = [batch_of([[texts[i] for i in one]], padding).to(device) for one in rows]
    before = sum(parameter.numel() for parameter in model.parameters())
    training = model.training
    model.eval()
    layers = tuple(range(model.config.num_hidden_layers))
    if candidate.keep_layers is not None:
        layers = tuple(keep_most_influential(model, batches, candidate.keep_layers))
    if candidate.keep_neurons < 1 or candidate.keep_heads < 1:
        narrow(model, batches, candidate.keep_neurons, candidate.keep_heads)
    model.train(training)
    return Cut(layers, before, sum(parameter.numel() for parameter in model.parameters()))
