from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from stillhouse.distill.sweep import METHODS, Parts, _candidate, pareto, sweep
from stillhouse.models.port import ModelError
from stillhouse.tasks.students import Architecture
from tests.unit.distill.toy import LABELS, texts


def test_the_front_is_what_nothing_beats() -> None:
    random = np.random.default_rng(0)
    points = [tuple(row) for row in random.integers(0, 6, (60, 3)).astype(float).tolist()]

    def beats(one, other) -> bool:
        no_worse = one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]
        return no_worse and one != other

    expected = [i for i, own in enumerate(points) if not any(beats(other, own) for other in points)]
    assert pareto(points) == expected
    assert pareto([]) == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_architecture_is_a_candidate_that_a_task_file_could_name(method) -> None:
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    for architecture in get_args(Architecture):
        fixed = {"architecture": architecture, "method": method, "temperature": 3.0, "alpha": 0.25}
        of_architecture = {"layers": 3, "log2_dim": 6, "width": 0.5}
        asked = optuna.trial.FixedTrial(fixed | of_architecture | {"beside": "nothing", "hidden": "nothing"})
        candidate, named = _candidate(asked, [architecture], 2, 5)
        assert named == method
        assert (candidate.architecture, candidate.epochs, candidate.seed) == (architecture, 2, 5)
        kinds = {term.kind: term for term in candidate.distill}
        if method == "blend":
            assert (candidate.alpha, candidate.temperature, kinds) == (0.25, 3.0, {})
        elif method == "hard_labels":
            assert (candidate.alpha, kinds) == (1.0, {})
        else:
            assert kinds[method].temperature == 3.0
            assert (kinds[method].weight, kinds["hard_labels"].weight) == (0.75, 0.25)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "hard_labels"])
def test_relations_and_hidden_states_stand_beside_what_is_of_answers(method) -> None:
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    fixed = {"method": method, "temperature": 3.0, "alpha": 0.25, "layers": 3, "log2_dim": 6, "width": 0.5}
    fixed |= {"beside": "rkd", "beside_weight": 0.1, "hidden": "hidden_cosine", "hidden_weight": 2.0}
    for architecture in get_args(Architecture):
        asked = optuna.trial.FixedTrial(fixed | {"architecture": architecture})
        candidate, named = _candidate(asked, [architecture], None, 0)
        weights = {term.kind: term.weight for term in candidate.distill}
        answers = "soft_targets" if method == "blend" else method
        if architecture == "cut_encoder":
            assert named == f"{method}+rkd+hidden_cosine"
            assert weights == {answers: 0.75, "hard_labels": 0.25, "rkd": 0.1, "hidden_cosine": 2.0}
        else:  # it has no hidden layers
            assert named == f"{method}+rkd"
            assert weights == {answers: 0.75, "hard_labels": 0.25, "rkd": 0.1}


def test_a_part_without_texts_is_refused(tmp_path) -> None:
    parts = Parts(LABELS, texts(10), texts(10), texts(10), [])
    with pytest.raises(ModelError, match="'test'"):
        sweep(tmp_path, parts, architectures=["hashed_ngrams"], minutes=1)
