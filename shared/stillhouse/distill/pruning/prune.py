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
    """Leave out of `model`, in place, what `candidate` does not keep. Raises `ModelError` where it cannot be done.

    >>> import numpy as np
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **shape))
    >>> candidate = LanguageModel(architecture="causal_lm", base="smollm2-135m-instruct", keep_layers=2)
    >>> cut = prune(model, candidate, [Encoded(np.arange(3, 9, dtype=np.int32), answer_at=2)], padding=0)
    >>> len(cut.layers), cut.weights < cut.weights_before
    (2, True)
    """
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
