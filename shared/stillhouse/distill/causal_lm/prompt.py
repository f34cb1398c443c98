"""Prompt optimisation: no weight learns; an instruction is rewritten until the model answers as its teacher did.

GEPA (Agrawal et al. 2507.19457) evolves it: another language model reads what went wrong on a few questions and
writes a better instruction, which is kept where it answers more of them, and parents are drawn from those that are best
on some question. The package is `gepa`, of the extra `prompt`; without it there is no such rung.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stillhouse.distill.causal_lm.examples import WrittenText
from stillhouse.models.port import ModelError

SEED: Final = "Answer the last message exactly as the earlier ones were answered."
JUDGING: Final = 60  # recorded answers that choose between instructions, at most; a third of what there is
LEARNING: Final = 150  # and those that a rewrite looks at
AT_ONCE: Final = 4  # of them, at a time

Ask = Callable[[str, Sequence[WrittenText]], list[str]]  # instruction, questions -> answers
Reflect = Callable[[str], str]  # what a language model answers to a prompt
Same = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Instruction:
    """What was found. Shares are of the `judging` recorded answers, which no rewrite looked at."""

    text: str
    agreement: float
    agreement_before: float
    judging: int
    tried: int
    asked: int


def optimise_prompt(
    ask: Ask, reflect: Reflect, texts: Sequence[WrittenText], same: Same, *, metric_calls: int, seed: int
) -> Instruction:
    """The best instruction that `metric_calls` answers of the student find.

    The instruction to begin with counts too, so that the result never agrees less than it. Raises `ModelError` without
    the package, or with too few texts, and whatever `ask` and `reflect` raise.

    Example, where only a loud instruction is obeyed:

    >>> from stillhouse.models.chat.request import ChatRequest
    >>> texts = [WrittenText(ChatRequest.of("text", f"q{n}"), "yes") for n in range(12)]
    >>> def ask(instruction, texts):
    ...     return ["yes" if "LOUD" in instruction else "no" for _ in texts]
    >>> found = optimise_prompt(ask, lambda prompt: "```Be LOUD```", texts, str.__eq__, metric_calls=60, seed=0)
    >>> found.text, found.agreement_before, found.agreement
    ('Be LOUD', 0.0, 1.0)
    """
    try:
        import gepa
    except ImportError:
        raise ModelError("method = prompt needs the package gepa; install stillhouse[prompt].") from None
    judging = min(JUDGING, len(texts) // 3)
    if judging < 1:
        raise ModelError(f"{len(texts)} recorded answers are too few to optimise a prompt on; record more.")
    failed: list[Exception] = []
    found = gepa.optimize(
        seed_candidate={"instruction": SEED},
        trainset=list(texts[:-judging])[-LEARNING:],
        valset=list(texts[-judging:]),
        adapter=_Adapter(ask, same, failed),
        reflection_lm=_kept(reflect, failed),
        reflection_minibatch_size=AT_ONCE,
        max_metric_calls=metric_calls,
        # It goes on after errors of its own accord; a server that died stays dead.
        stop_callbacks=lambda state: bool(failed),
        raise_on_exception=True,
        logger=_Silent(),
        seed=seed,
    )
    if failed:
        raise failed[0]
    scores = found.val_aggregate_scores
    return Instruction(
        found.candidates[found.best_idx]["instruction"],
        float(scores[found.best_idx]),
        float(scores[0]),
        judging,
        len(found.candidates),
        int(found.total_metric_calls or 0),
    )


class _Adapter:
    """How GEPA asks the student, and what it is told of the answers."""

    propose_new_texts = None

    def __init__(self, ask: Ask, same: Same, failed: list[Exception]) -> None:
        self._ask, self._same, self._failed = ask, same, failed

    def evaluate(self, batch: list[WrittenText], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa import EvaluationBatch

        try:
            answers = self._ask(candidate["instruction"], batch)
        except Exception as error:
            self._failed.append(error)
            raise
        scores = [float(self._same(said, text.answer)) for said, text in zip(answers, batch, strict=True)]
        traces = list(zip(batch, answers, scores, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=answers, scores=scores, trajectories=traces)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        told = [
            {
                "Inputs": text.request.question,
                "Generated Outputs": said,
                "Feedback": "Right." if score else f"Wrong. The right answer is: {text.answer}",
            }
            for text, said, score in eval_batch.trajectories
        ]
        return {name: told for name in components_to_update}


class _Silent:
    def log(self, message: str) -> None:
        """Nothing: the job's own progress is what people see."""


def _kept(reflect: Reflect, failed: list[Exception]) -> Callable[[Any], str]:
    def asked(prompt: Any) -> str:
        if failed:  # GEPA tries again by itself
            raise failed[0]
        try:
            return reflect(prompt if isinstance(prompt, str) else str(prompt[-1]["content"]))
        except Exception as error:
            failed.append(error)
            raise

    return asked
