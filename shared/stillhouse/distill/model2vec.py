"""Static vectors that somebody else distilled: a folder as Model2Vec writes it (Tulkens & van Dongen, 2024).

`model.safetensors` with `embeddings` [rows, dim] and, where the vocabulary was quantised, `mapping` [vocabulary] of
tokens to rows and `weights` [vocabulary] of tokens; `tokenizer.json` and `config.json` beside it. A text is the mean of
its tokens' vectors there; here they are what `StaticEmbeddings` and `TextCnn` start from, and go on learning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from stillhouse.distill.static_embeddings import SCALE
from stillhouse.models.features import PADDING, TOKENIZER_FILE
from stillhouse.models.port import ModelError

VECTORS_FILE: Final = "model.safetensors"


def model2vec_vectors(folder: Path) -> Tensor:
    """The vector of every token of the tokenizer in `folder`, float32 [vocabulary, dim].

    Scaled as `token_vectors` are, so that the same learning rates fit; rows of padding and of unknown tokens are 0, for
    Model2Vec counts neither. Raises `ModelError` where the folder is not as the module says, or token 0 is a word: what
    serves takes 0 for padding.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> from safetensors.torch import save_file
    >>> from tokenizers import Tokenizer, models
    >>> with TemporaryDirectory() as name:
    ...     folder = Path(name)
    ...     tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1, "blue": 2}, unk_token="[UNK]"))
    ...     tokenizer.save(str(folder / "tokenizer.json"))
    ...     save_file({"embeddings": torch.tensor([[9.0], [1.0], [-1.0]])}, folder / "model.safetensors")
    ...     vectors = model2vec_vectors(folder)
    >>> vectors[0].item(), (vectors[1] == -vectors[2]).item()
    (0.0, True)
    """
    found = _tensors(folder / VECTORS_FILE)
    described = _described(folder / TOKENIZER_FILE)
    tokens = _tokens(described)
    vectors = found["embeddings"].float()
    if "mapping" in found:
        vectors = vectors[found["mapping"].long()]
    if "weights" in found:
        vectors = vectors * found["weights"].float()[:, None]
    highest = max(tokens.values())
    if len(vectors) <= highest:
        raise ModelError(f"{folder}: {len(vectors)} vectors and a token {highest}; take files of one model.")
    nothing = _nothing(described, tokens)
    if PADDING not in nothing:
        word = next((token for token, number in tokens.items() if number == PADDING), "missing")
        raise ModelError(
            f"{folder}: token {PADDING} is {word!r}, which a text may hold; take vectors whose token {PADDING} is "
            "padding or stands for unknown words."
        )
    vectors[sorted(nothing)] = 0.0
    return vectors * (SCALE / vectors.std().clamp(min=1e-12))


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: no safetensors ({error}); name a folder that Model2Vec wrote.") from None
    if "embeddings" not in found or found["embeddings"].dim() != 2:
        raise ModelError(f"{path}: no table `embeddings`; name a folder that Model2Vec wrote.")
    return found


def _described(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _tokens(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a usable tokenizer ({error!r}); name a folder that Model2Vec wrote.") from None
    return found


def _tokens(described: dict[str, Any]) -> dict[str, int]:
    """Token to number; Unigram's vocabulary is a list of pairs, the others' a table."""
    vocabulary = described["model"]["vocab"]
    tokens = (
        dict(vocabulary)
        if isinstance(vocabulary, dict)
        else {token: number for number, (token, _) in enumerate(vocabulary)}
    )
    return tokens | {one["content"]: one["id"] for one in described.get("added_tokens") or ()}


def _nothing(described: dict[str, Any], tokens: dict[str, int]) -> set[int]:
    """Numbers of tokens that say nothing: padding, unknown words, and marks that no text holds."""
    model, padding = described["model"], described.get("padding") or {}
    unknown = tokens.get(model["unk_token"]) if model.get("unk_token") else model.get("unk_id")
    marks = {one["id"] for one in described.get("added_tokens") or () if one.get("special")}
    return {number for number in (unknown, padding.get("pad_id")) if number is not None} | marks
