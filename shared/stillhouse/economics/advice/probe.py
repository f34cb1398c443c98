"""Could a cheap student learn this? A quick one is trained on recorded answers, and what it may serve is certified.

The probe is kernel ridge regression on TF-IDF-weighted hashed n-grams (the features of the cheapest student; one linear
system, no tuning): weaker than any student of the ladder, so what it may serve, they may. A part of the cases picks the
thresholds to be tried, another, which nothing was fitted on, certifies the promise by the fixed walk of
`stillhouse.quality.thresholds`. Cases with one input are on one side. Where cases have times, the certified part is
later than what the probe learnt from, as it will be in service.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.economics.advice.case import Case
from stillhouse.economics.advice.form import fields_of
from stillhouse.models.features import hashed_features
from stillhouse.quality.binomial import clopper_pearson
from stillhouse.quality.thresholds import certify_fixed, walk_of
from stillhouse.store.redaction import normalise

MOST: Final = 5000  # cases; the linear system grows with the cube
FEWEST: Final = 200
BUCKETS: Final = 1 << 16
PARTS: Final = (0.6, 0.75)  # learnt from; picks thresholds; the rest certifies
PENALTY: Final = 0.3
CLOSED: Final = 200  # a field with more values than this is not learnt by choosing


@dataclass(frozen=True, slots=True)
class Probe:
    """What the probe learnt. `agreement`: with the teacher on every certified-on case; `lower`, `upper`: its bounds.

    `coverage`: share of requests that it may serve so that at most epsilon of all differ, with its bounds; 0 where no
    threshold could be certified. `n`: cases that nothing was fitted on. `fields`: of a form, how many were learnt;
    `left_out`: how many have too many values for that, and count for nothing here.
    """

    agreement: float
    lower: float
    upper: float
    coverage: float
    coverage_lower: float
    coverage_upper: float
    n: int
    fields: int = 0
    left_out: int = 0


def probe(cases: Sequence[Case], epsilon: float, delta: float) -> Probe | None:
    """What can be learnt of labels, or of all fields of a form together; None with too few cases."""
    chosen = _newest(cases)
    if len(chosen) < FEWEST:
        return None
    learn, pick, hold = _split(chosen)
    if min(len(learn), len(pick), len(hold)) < FEWEST // 10:
        return None
    kernel_learn, kernel_rest = _kernels([case.input for case in learn], [case.input for case in (*pick, *hold)])
    system = np.linalg.inv(kernel_learn + PENALTY * np.eye(len(learn)))
    columns, left_out = _columns(chosen)
    right = np.ones(len(pick) + len(hold), dtype=bool)
    sure = np.ones(len(pick) + len(hold))
    for column in columns:
        labels = sorted({column(case) for case in learn})
        place = {label: i for i, label in enumerate(labels)}
        targets = np.zeros((len(learn), len(labels)))
        targets[np.arange(len(learn)), [place[column(case)] for case in learn]] = 1.0
        scores = kernel_rest @ (system @ targets)
        best = scores.argmax(axis=1)
        top = np.partition(scores, -2, axis=1)[:, -2:] if len(labels) > 1 else np.tile([0.0, 1.0], (len(best), 1))
        right &= np.array([labels[b] == column(case) for b, case in zip(best, (*pick, *hold), strict=True)])
        sure = np.minimum(sure, np.clip(top[:, 1] - top[:, 0], 0.0, 1.0))
    found = _certified(right, sure, len(pick), epsilon, delta)
    return replace(found, fields=len(columns), left_out=left_out) if columns[0].path is not None else found


def _certified(right: NDArray[np.bool_], sure: NDArray[np.float64], picked: int, epsilon: float, delta: float) -> Probe:
    n = right.size - picked
    grid = walk_of(sure[:picked], right[:picked], n, delta)
    found = certify_fixed(sure[picked:], right[picked:], epsilon, delta, grid)
    agreed = int(right[picked:].sum())
    served = 0 if found is None else round(found.coverage * n)
    coverage = clopper_pearson(served, n) if served else (0.0, 0.0)
    return Probe(agreed / n, *clopper_pearson(agreed, n), served / n, *coverage, n)


def _columns(cases: Sequence[Case]) -> tuple[list[_Column], int]:
    """What has to be told: the answer as it is, or each field of a form that has few values; and how many have more."""
    forms = [fields_of(case.output) for case in cases]
    known = [form for form in forms if form is not None]
    if len(known) < len(forms):
        return [_Column(None)], 0
    paths = sorted({path for form in known for path in form})
    closed = [_Column(path) for path in paths if len({form.get(path) for form in known}) <= CLOSED]
    return (closed, len(paths) - len(closed)) if closed else ([_Column(None)], 0)


@dataclass(frozen=True, slots=True)
class _Column:
    path: str | None

    def __call__(self, case: Case) -> str:
        if self.path is None:
            return case.output.strip()
        return (fields_of(case.output) or {}).get(self.path, "")


def _newest(cases: Sequence[Case]) -> list[Case]:
    if all(case.time is not None for case in cases):
        return sorted(cases, key=lambda case: case.time.timestamp() if case.time else 0.0)[-MOST:]
    return sorted(cases, key=lambda case: _draw(case.input))[:MOST]


def _split(cases: Sequence[Case]) -> tuple[list[Case], list[Case], list[Case]]:
    first, second = (int(part * len(cases)) for part in PARTS)
    learn, pick, hold = list(cases[:first]), list(cases[first:second]), list(cases[second:])
    known = {normalise(case.input) for case in learn}
    # Repeated requests are learnt by heart; what they say about the others would be a lie.
    return (
        learn,
        [case for case in pick if normalise(case.input) not in known],
        [case for case in hold if normalise(case.input) not in known],
    )


def _kernels(learn: Sequence[str], rest: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines of TF-IDF vectors, [learn, learn] and [rest, learn]."""
    from scipy.sparse import csr_matrix

    def counts(texts: Sequence[str]) -> csr_matrix:
        rows = [hashed_features(text, BUCKETS, 512) for text in texts]
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        return csr_matrix((np.ones(indptr[-1]), np.concatenate(rows), indptr), shape=(len(rows), BUCKETS))

    first, second = counts(learn), counts(rest)
    weight = np.log((1 + len(learn)) / (1 + np.asarray(first.sum(axis=0)).ravel())) + 1.0
    vectors = []
    for matrix in (first, second):
        weighted = matrix.multiply(weight[None, :]).tocsr()
        norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        vectors.append(weighted.multiply(1.0 / np.maximum(norms, 1e-12)[:, None]).tocsr())
    known, new = vectors
    return np.asarray((known @ known.T).todense()), np.asarray((new @ known.T).todense())


def _draw(text: str) -> bytes:
    return hashlib.sha256(normalise(text).encode()).digest()
