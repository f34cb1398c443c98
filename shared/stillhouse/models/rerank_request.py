"""A request to rank documents for a query, how it travels in an event, and how its answer is written.

The input of such an event is the request's canonical JSON (`input_type` `rerank`). The answer is the JSON list of the
documents' places, best first, and the distribution holds each place's score: so that comparators of rankings, the
store and the trainer read it as they read any other answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.models.chat.request import first_sentence

MOST_DOCUMENTS: Final = 1000
LARGEST: Final = 15.0  # of log-odds: beyond it scores could not be told apart after rounding

Text = Annotated[str, Field(min_length=1)]


class RerankRequest(BaseModel):
    """Everything that decides the answer. Unknown keys are refused: what is not understood is not dropped in silence.

    Example:
        >>> asked = RerankRequest(query="red wine", documents=("grapes", "paint"))
        >>> RerankRequest.of(asked.as_input()) == asked
        True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: Text
    documents: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MOST_DOCUMENTS)]

    @classmethod
    def of(cls, text: str) -> RerankRequest:
        """What an event's input asks. ValueError in one sentence where it is no such request."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"the input is no request to rank documents: {first_sentence(error)}") from None

    def as_input(self) -> str:
        """The canonical JSON: the same request is the same text."""
        said = {"query": self.query, "documents": list(self.documents)}
        return json.dumps(said, ensure_ascii=False, separators=(",", ":"))

    def with_texts(self, change: Callable[[str], str]) -> RerankRequest:
        """The same request with the query and every document changed."""
        return RerankRequest(query=change(self.query), documents=tuple(change(text) for text in self.documents))


def answer_of(scores: Sequence[float]) -> tuple[str, dict[str, float]]:
    """Output and distribution for `scores`, log-odds of relevance, one a document; ties keep the documents' order.

    Example:
        >>> output, scores = answer_of([-1.0, 2.0, 0.0])
        >>> output
        '[1,2,0]'
        >>> round(scores["1"], 3)
        0.881
    """
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return json.dumps(order, separators=(",", ":")), {str(place): probability_of(scores[place]) for place in order}


def scores_of(distribution: Mapping[str, float], documents: int) -> list[float]:
    """The log-odds that `answer_of` wrote down, one a document. ValueError where a document has no score."""
    missing = [place for place in range(documents) if str(place) not in distribution]
    if missing:
        raise ValueError(
            f"the answer scores {len(distribution)} of {documents} documents; document {missing[0]} is new"
        )
    return [log_odds_of(distribution[str(place)]) for place in range(documents)]


def order_of(output: str, documents: int) -> list[int]:
    """The places of an output, best first. ValueError in one sentence where it is not a ranking of the documents."""
    try:
        order = json.loads(output)
    except ValueError:
        order = None
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(documents))):
        raise ValueError(f"the answer is not a ranking of {documents} documents")
    return [int(place) for place in order]


def probability_of(log_odds: float) -> float:
    """1 / (1 + exp(-x)), of x within +-15."""
    return 1.0 / (1.0 + math.exp(-max(-LARGEST, min(LARGEST, log_odds))))


def log_odds_of(probability: float) -> float:
    """The log-odds of a probability, within +-15."""
    least = probability_of(-LARGEST)
    inside = max(least, min(1.0 - least, probability))
    return math.log(inside / (1.0 - inside))
