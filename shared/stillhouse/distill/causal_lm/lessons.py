"""What a student is told about what it would say: each lesson sums the losses of a batch's answer tokens, in float32.

Hard: the recorded token's negative log-likelihood. Soft: the divergence from the teacher's distribution at the same
place of the recorded answer (Hinton et al. 1503.02531; times T^2, so that gradients keep their size), with a share of
the hard loss beside it. Drawn: the divergence at the places of an answer that the student drew itself (Agarwal et al.
2306.13649), or MiniLLM's loss of it (Gu et al. 2306.08543).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stillhouse.distill.causal_lm.examples import Encoded
from stillhouse.distill.causal_lm.packing import Batch
from stillhouse.distill.causal_lm.scores import Scores
from stillhouse.distill.causal_lm.teacher import LocalTeacher
from stillhouse.distill.objectives.divergence import divergence
from stillhouse.distill.objectives.minillm import minillm_loss
from stillhouse.distill.objectives.tokens import log_probabilities
from stillhouse.tasks.students import LanguageModel

# logits float32 [m, V], their batch, the places of its texts in order, and the texts; the weighted sum
Lesson = Callable[[Tensor, Batch, Sequence[int], Sequence[Encoded]], Tensor]


def hard(logits: Tensor, batch: Batch, places: Sequence[int], examples: Sequence[Encoded]) -> Tensor:
    """Negative log-likelihood of the recorded tokens."""
    return (functional.cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum()


def soft(candidate: LanguageModel, scores: Scores, vocabulary: int) -> Lesson:
    """The divergence from what the teacher said of recorded answers."""
    kind, share = candidate.objective, candidate.hard_weight
    if kind == "hard" or kind == "minillm":
        raise ValueError(f"objective {kind} is no divergence from a recorded answer's scores")

    def lesson(logits: Tensor, batch: Batch, places: Sequence[int], examples: Sequence[Encoded]) -> Tensor:
        found = scores.divergences(places, logits, vocabulary, kind, beta=candidate.beta, skew=candidate.skew)
        taught = (found * batch.weights).sum() * scores.temperature**2
        return taught if share == 0 else share * hard(logits, batch, places, examples) + (1 - share) * taught

    return lesson


def drawn(candidate: LanguageModel, teacher: LocalTeacher) -> Lesson:
    """The divergence from what the teacher says, now, of answers that the student drew."""
    kind, temperature = candidate.objective, candidate.distill_temperature
    if kind == "hard":
        raise ValueError("an answer that the student drew has no hard loss")

    def lesson(logits: Tensor, batch: Batch, places: Sequence[int], examples: Sequence[Encoded]) -> Tensor:
        p = teacher.log_probs(teacher.states(batch), temperature).to(logits.device)
        q = log_probabilities(logits, temperature, teacher.vocabulary)
        if kind != "minillm":
            found = divergence(kind, p, q, beta=candidate.beta, skew=candidate.skew)
            return (found * batch.weights).sum() * temperature**2
        lengths = [len(examples[place]) - examples[place].answer_at for place in places]
        counts = torch.arange(max(lengths), device=q.device) < torch.tensor(lengths, device=q.device).unsqueeze(-1)
        p, q, tokens = (_padded(values, lengths) for values in (p, q, batch.targets))
        return minillm_loss(p, q, tokens, counts) * len(lengths)

    return lesson


def _padded(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """[m, ...], texts one after the other, as [texts, longest, ...]."""
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(values, list(lengths))), batch_first=True)
