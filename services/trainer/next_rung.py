"""What the rung after a student would have cost to make: an estimate from what measuring that student took.

A pass over a token costs about 2 FLOPs a weight forwards and 4 backwards, of which half are for the gradients of the
weights (Kaplan et al. 2001.08361); what is frozen needs none. So learning from a token costs 3 times as much as
reading it where all weights learn, and twice as much under LoRA; both grow with the weights. What reading costs was
measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from stillhouse.tasks import LanguageModel

PASSES: Final = {"full": 3.0, "lora": 2.0}


def next_rung_cpu_s(
    following: LanguageModel,
    *,
    cpu_s_per_token: float,
    tokens_per_example: float,
    examples: int,
    weights: int,
    following_weights: int,
) -> float:
    """CPU seconds of making `following`, measuring it in serving aside.

    `cpu_s_per_token` is of the student that was measured, which has `weights` bytes as it is stored unquantised.

    >>> rung = LanguageModel(architecture="causal_lm", base="b", epochs=2)
    >>> sizes = {"weights": 100, "following_weights": 300}
    >>> next_rung_cpu_s(rung, cpu_s_per_token=0.01, tokens_per_example=50, examples=200, **sizes)
    1200.0
    """
    reading = cpu_s_per_token * tokens_per_example * following_weights / weights
    if following.method == "few_shot":
        return 0.0
    if following.method == "prompt":
        return reading * following.metric_calls
    return reading * examples * following.epochs * PASSES[following.method]


def sentence(following: LanguageModel, usd: float) -> str:
    """For the reason of a decision."""
    return f"the next rung, {following.method} of {following.base}, would have cost about {usd:.2g} USD to make"


def weights_of(base: Path) -> int | None:
    """Bytes of a base model's weights; None where it is not on this machine."""
    found = sum(path.stat().st_size for path in base.glob("*.safetensors")) if base.is_dir() else 0
    return found or None
