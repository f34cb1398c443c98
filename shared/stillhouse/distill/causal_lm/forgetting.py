"""What a student that writes has forgotten of its base model, on texts that have nothing to do with its task.

Two numbers. *KL(base, student)*, exact over the whole vocabulary, in nats a token, mean over the tokens of the probes'
questions and right answers (not those of the chat template, which both know by heart). And of the probes that the base
gets right, the share that the student still gets right: a probe is a question with one right and some wrong answers,
and a model's choice is the answer with the largest mean log-probability a token, as evaluation harnesses for language
models choose (Gao et al., lm-evaluation-harness, `acc_norm`; here by tokens instead of characters). Nothing is
generated, so a student that is held to a schema is measured as any other.

The weights are those of the artefact. Where it is quantised to 8-bit integers, they are computed back to floats:
the rounding of weights is in the figures, that of activations is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from stillhouse.distill.causal_lm.base import check_checkpoint, load_model, load_tokenizer
from stillhouse.models.port import ModelError

SUITE: Final = "probes.jsonl"


@dataclass(frozen=True, slots=True)
class Probe:
    """A question about the world at large, its right answer, and answers that are wrong."""

    question: str
    right: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """`kl` over `tokens` tokens; `kept` of the `known` probes that the base gets right, of `probes` in all."""

    kl: float
    tokens: int
    probes: int
    known: int
    kept: int


def read_probes(path: Path | None = None) -> list[Probe]:
    """The probes of a file (JSONL of `question`, `right`, `wrong`), or of the suite that comes along.

    ValueError in one sentence for what is no probe.

    >>> len(read_probes()) >= 50
    True
    """
    try:
        text = (files(__package__) / SUITE if path is None else path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    probes = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            probe = Probe(str(row["question"]), str(row["right"]), tuple(map(str, row["wrong"])))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path or SUITE} line {number}: needs question, right and wrong (a list)") from None
        if not probe.wrong or not probe.right or isinstance(row["wrong"], str):
            raise ValueError(f"{path or SUITE} line {number}: wrong must list at least one answer")
        probes.append(probe)
    if not probes:
        raise ValueError(f"{path or SUITE} holds no probe")
    return probes


def forgotten(base: Path, student: Path, probes: Sequence[Probe]) -> Forgotten:
    """Compare the checkpoint `student` with the one that it was made of. Raises `ModelError`.

    Both must have one tokenizer. One probe after the other; takes some seconds for a model of 135 M weights.
    """
    import torch

    tokenizer = load_tokenizer(base)
    models = [load_model(base, tokenizer).eval(), load_student(student, tokenizer).eval()]
    total, tokens, known, kept = 0.0, 0, 0, 0
    with torch.inference_mode():
        for probe in probes:
            scores = []
            for place, answer in enumerate((probe.right, *probe.wrong)):
                ids, counted, answered = _tokens(tokenizer, probe.question, answer)
                logs = [torch.log_softmax(_logits(model, ids), dim=-1) for model in models]
                if place == 0:
                    at = torch.tensor(counted) - 1  # what predicts each of them
                    total += float(kl_of(logs[0][at], logs[1][at]).sum())
                    tokens += len(counted)
                said = torch.tensor(answered)
                scores.append([float(log[said - 1, torch.tensor(ids)[said]].mean()) for log in logs])
            right = [all(scores[0][m] > wrong[m] for wrong in scores[1:]) for m in range(2)]
            known += right[0]
            kept += right[0] and right[1]
    return Forgotten(total / max(1, tokens), tokens, len(probes), known, kept)


def kl_of(base: Any, student: Any) -> Any:
    """KL(base, student) of log-probabilities [n, vocabulary], float [n], in nats.

    ValueError for other shapes.

    >>> import torch
    >>> half, quarter = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> round(float(kl_of(half, quarter)), 4), float(kl_of(half, half))
    (0.1438, 0.0)
    """
    if base.shape != student.shape or base.dim() != 2:
        raise ValueError(f"log-probabilities must be two tables of one shape; got {base.shape} and {student.shape}")
    return (base.exp() * (base - student)).sum(dim=-1)


def load_student(folder: Path, tokenizer: Any) -> Any:
    """The model of an artefact: as it is, or with its 8-bit weights computed back. Raises `ModelError` for others."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" not in config:
        return load_model(folder, tokenizer)
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    check_checkpoint(folder)
    stored = {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}
    scales = {name: value for name, value in stored.items() if name.endswith(".weight_scale")}
    if any(f"{name.removesuffix('_scale')}" not in stored for name in scales):
        method = config["quantization_config"].get("format", "?")
        raise ModelError(f"{folder}: weights of format {method!r} cannot be compared; forgetting needs none or w8a8.")
    weights = {name: value for name, value in stored.items() if not name.endswith(("_scale", "_zero_point"))}
    for name, scale in scales.items():
        of = name.removesuffix("_scale")
        weights[of] = weights[of].float() * scale.float().reshape(-1, *[1] * (weights[of].dim() - 1))
    plain = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    model = AutoModelForCausalLM.from_config(plain).float()
    missing, _ = model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    model.tie_weights()
    tied = getattr(plain, "tie_word_embeddings", False)
    if [name for name in missing if not (tied and name == "lm_head.weight")]:
        raise ModelError(f"{folder}: {missing[0]} is missing among its weights; train the student anew.")
    return model


def _tokens(tokenizer: Any, question: str, answer: str) -> tuple[list[int], list[int], list[int]]:
    """The ids of a chat, and the places in them of the question's and the answer's tokens, and of the answer's."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    before, found, after = prompt.rpartition(question)
    parts = (before, question, after) if found else (prompt, "", "")
    ids: list[list[int]] = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (*parts, answer)]
    starts = [0, len(ids[0]), len(ids[0]) + len(ids[1]), sum(map(len, ids[:3]))]
    whole = [token for part in ids for token in part]
    answered = list(range(starts[3], len(whole)))
    asked = [place for place in range(starts[1], starts[2]) if place > 0]
    return whole, asked + answered, answered


def _logits(model: Any, ids: Sequence[int]) -> Any:
    import torch

    return model(input_ids=torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu()
