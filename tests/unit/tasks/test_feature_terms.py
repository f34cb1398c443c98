"""A student whose terms on hidden layers would fail in training is refused before it, in one sentence with the mend."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from stillhouse.tasks import StudentCandidate

LAYER = "transformer.encoder.layer"


def cut(term, **fields) -> StudentCandidate:
    return StudentCandidate.model_validate({"architecture": "cut_encoder", "layers": 3, "distill": [term]} | fields)


@pytest.mark.parametrize(
    ("term", "fields", "said"),
    [
        ({"kind": "hidden_mse", "student": f"{LAYER}.0"}, {}, rf"that learn are {LAYER}.2; name one of them"),
        ({"kind": "hidden_mse", "student": f"{LAYER}.0"}, {"learn_layers": 2}, rf"are {LAYER}.1 to {LAYER}.2; name"),
        ({"kind": "hidden_cosine", "student": f"{LAYER}.3"}, {"learn_layers": 3}, rf"'{LAYER}.3' of the student"),
        ({"kind": "attention_transfer", "student": "head"}, {}, "names 'head' of the student"),
        ({"kind": "attention_transfer", "teacher": f"{LAYER}.6"}, {}, rf"the teacher, whose layers are .* {LAYER}.5;"),
        ({"kind": "minilm", "student": f"{LAYER}.2.output"}, {}, r"minilm names '.*output' of the student"),
        ({"kind": "hidden_mse", "layers": "uniform", "teacher": f"{LAYER}.1"}, {}, "remove student and teacher"),
        ({"kind": "hidden_mse", "layers": "all"}, {}, "'last', 'uniform' or 'searched'"),
        ({"kind": "hidden_cosine"}, {"token_dropout": 0.1}, "token_dropout leaves out some; remove one of the two"),
        ({"kind": "minilm"}, {"width": 0.5}, r"12 heads, of which width = 0.5 keeps 6; set parts = \["),
        ({"kind": "minilm", "parts": ["keys"]}, {"width": 0.4}, "vectors of width 160 into 12 heads; name a divisor"),
        ({"kind": "minilm", "heads": 7}, {}, "vectors of width 384 into 7 heads"),
        ({"kind": "hard_labels"}, {"learn_layers": 4}, "learn_layers = 4 is more than the 3 layers that are kept"),
        ({"kind": "hard_labels"}, {"architecture": "joint", "learn_layers": 2}, "is for cut_encoder; remove it"),
    ],
)
def test_what_would_fail_in_training_is_refused(term, fields, said) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        cut(term, **fields)
    assert refused.value.error_count() == 1


@pytest.mark.parametrize(
    ("term", "fields"),
    [
        ({"kind": "hidden_mse", "student": f"{LAYER}.0", "teacher": f"{LAYER}.1"}, {"learn_layers": 3}),
        ({"kind": "hidden_mse", "student": f"{LAYER}.2.attention.output", "teacher": "transformer.embeddings"}, {}),
        ({"kind": "hidden_cosine", "layers": "searched"}, {"learn_layers": 2}),
        ({"kind": "minilm", "parts": ["queries", "keys", "values"]}, {"width": 0.5}),
        ({"kind": "minilm", "parts": ["attention"], "heads": 7}, {"width": 0.98}),  # twelve heads are left
        ({"kind": "rkd"}, {"token_dropout": 0.1}),
    ],
)
def test_what_can_be_trained_is_accepted(term, fields) -> None:
    assert len(cut(term, **fields).distill) == 1
