"""Enough of PromQL to evaluate the alert rules without a Prometheus: parsed by promql-parser, evaluated here.

What a rule uses beyond it raises `NotImplementedError`, so that no rule passes unevaluated. `promtool` evaluates the
same rules on the same samples where it is installed.
"""

from __future__ import annotations

import bisect
import itertools
import operator
import re
from collections.abc import Callable, Mapping, Sequence

import promql_parser as promql

Labels = tuple[tuple[str, str], ...]  # sorted; a sample's own metric name is `__name__`
Samples = Sequence[tuple[float, float]]  # (seconds, value), in order of time
Vector = dict[Labels, float]
Value = Vector | float

LOOKBACK_S = 300.0
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
}  # fmt: skip
COMPARISON: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
AGGREGATES: dict[str, Callable[[list[float]], float]] = {"sum": sum, "min": min, "max": max}


class Evaluator:
    """Evaluates expressions over recorded series."""

    def __init__(self, series: Mapping[Labels, Samples]) -> None:
        self._series = series

    def at(self, expression: str, seconds: float) -> Value:
        """The value of `expression` at a time."""
        return self._evaluate(promql.parse(expression), seconds)

    def firing(self, expression: str, held_s: float, until: float, step: float) -> set[Labels]:
        """What an alert with `for: held_s` fires for at `until`, evaluated every `step` seconds from 0 on."""
        parsed, since = promql.parse(expression), dict[Labels, float]()
        for tick in range(int(until // step) + 1):
            now = tick * step
            active = {_unnamed(labels) for labels in _vector(self._evaluate(parsed, now))}
            since = {labels: since.get(labels, now) for labels in active}
        return {labels for labels, begin in since.items() if until - begin >= held_s}

    def _evaluate(self, node: promql.Expr, now: float) -> Value:
        match node:
            case promql.NumberLiteral():
                return float(node.val)
            case promql.ParenExpr():
                return self._evaluate(node.expr, now)
            case promql.VectorSelector():
                found = ((labels, self._window(samples, node, now, LOOKBACK_S)) for labels, samples in self._of(node))
                return {labels: samples[-1][1] for labels, samples in found if samples}
            case promql.AggregateExpr():
                return self._aggregate(node, now)
            case promql.Call():
                return self._call(node, now)
            case promql.BinaryExpr():
                return _binary(node, self._evaluate(node.lhs, now), self._evaluate(node.rhs, now))
        raise NotImplementedError(f"{type(node).__name__}: teach tests/contracts/promql.py what it means")

    def _of(self, selector: promql.VectorSelector) -> list[tuple[Labels, Samples]]:
        return [(labels, samples) for labels, samples in self._series.items() if _matches(dict(labels), selector)]

    @staticmethod
    def _window(samples: Samples, selector: promql.VectorSelector, now: float, range_s: float) -> Samples:
        end = now - (selector.offset.total_seconds() if selector.offset else 0.0)
        first = bisect.bisect_right(samples, (end - range_s, float("inf")))
        return samples[first : bisect.bisect_right(samples, (end, float("inf")))]

    def _aggregate(self, node: promql.AggregateExpr, now: float) -> Vector:
        combine = AGGREGATES.get(str(node.op))
        if combine is None or (node.modifier and node.modifier.type != promql.AggModifierType.By):
            raise NotImplementedError(f"{node.op}: teach tests/contracts/promql.py what it means")
        kept = set(node.modifier.labels) if node.modifier else set()
        groups: dict[Labels, list[float]] = {}
        for labels, value in _vector(self._evaluate(node.expr, now)).items():
            groups.setdefault(tuple(pair for pair in labels if pair[0] in kept), []).append(value)
        return {labels: combine(values) for labels, values in groups.items()}

    def _call(self, node: promql.Call, now: float) -> Value:
        match node.func.name:
            case "time":
                return now
            case "vector":
                number = self._evaluate(node.args[0], now)
                assert isinstance(number, float)
                return {(): number}
            case "absent":
                selector = node.args[0]
                if _vector(self._evaluate(selector, now)):
                    return {}
                equal = (m for m in selector.matchers.matchers if m.op == promql.MatchOp.Equal)
                return {tuple(sorted((m.name, m.value) for m in equal)): 1.0}
            case "min_over_time":
                matrix = node.args[0]
                selector, span = matrix.vector_selector, matrix.range.total_seconds()
                windows = {labels: self._window(samples, selector, now, span) for labels, samples in self._of(selector)}
                return {_unnamed(labels): min(v for _, v in window) for labels, window in windows.items() if window}
            case "increase" | "rate" as name:
                matrix = node.args[0]
                span = matrix.range.total_seconds()
                selector = matrix.vector_selector
                risen = {}
                for labels, samples in self._of(selector):
                    rise = _increase(self._window(samples, selector, now, span), now, span)
                    if rise is not None:
                        risen[_unnamed(labels)] = rise / (span if name == "rate" else 1.0)
                return risen
        raise NotImplementedError(f"{node.func.name}(): teach tests/contracts/promql.py what it means")


def metric_names(expression: str) -> set[str]:
    """Every metric that an expression reads."""
    found = set()

    def visit(node: promql.Expr) -> None:
        selector = node.vector_selector if isinstance(node, promql.MatrixSelector) else node
        if isinstance(selector, promql.VectorSelector):
            found.add(str(selector.name))

    promql.walk(promql.parse(expression), visit)
    return found


def _increase(samples: Samples, now: float, span: float) -> float | None:
    """As Prometheus: resets added, extrapolated to the window's edges, at most half an interval beyond the samples."""
    if len(samples) < 2:
        return None
    (first_t, first), (last_t, last) = samples[0], samples[-1]
    values = [value for _, value in samples]
    rise = last - first + sum(a for a, b in itertools.pairwise(values) if b < a)
    covered = last_t - first_t
    interval = covered / (len(samples) - 1)
    before, after = first_t - (now - span), now - last_t
    if rise > 0 and first >= 0:
        before = min(before, covered * first / rise)  # a counter was never below 0
    before = before if before < interval * 1.1 else interval / 2
    after = after if after < interval * 1.1 else interval / 2
    return rise * (covered + before + after) / covered


def _matches(labels: dict[str, str], selector: promql.VectorSelector) -> bool:
    if labels["__name__"] != selector.name:
        return False
    for matcher in selector.matchers.matchers:
        value = labels.get(matcher.name, "")
        same = value == matcher.value
        if matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe):
            same = re.fullmatch(matcher.value, value) is not None
        if same != (matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re)):
            return False
    return True


def _binary(node: promql.BinaryExpr, left: Value, right: Value) -> Value:
    name = str(node.op)
    if node.modifier is not None and (node.modifier.matching is not None or node.modifier.return_bool):
        raise NotImplementedError("on(), ignoring(), bool: teach tests/contracts/promql.py what they mean")
    if name in ("and", "or", "unless"):
        ours, theirs = _vector(left), _vector(right)
        if name == "or":
            mine = {_unnamed(labels) for labels in ours}
            return ours | {labels: value for labels, value in theirs.items() if _unnamed(labels) not in mine}
        there = {_unnamed(labels) for labels in theirs}
        return {labels: value for labels, value in ours.items() if (_unnamed(labels) in there) == (name == "and")}
    if isinstance(left, float) and isinstance(right, float):
        return ARITHMETIC[name](left, right)
    if isinstance(left, float):
        pairs = {labels: (left, value) for labels, value in _vector(right).items()}
    elif isinstance(right, float):
        pairs = {labels: (value, right) for labels, value in left.items()}
    else:
        other = {_unnamed(labels): value for labels, value in right.items()}
        pairs = {labels: (v, other[_unnamed(labels)]) for labels, v in left.items() if _unnamed(labels) in other}
    if name in COMPARISON:
        # A filter: what remains keeps the value of the vector's side.
        side = 1 if isinstance(left, float) else 0
        return {labels: pair[side] for labels, pair in pairs.items() if COMPARISON[name](*pair)}
    return {_unnamed(labels): ARITHMETIC[name](*pair) for labels, pair in pairs.items()}


def _vector(value: Value) -> Vector:
    assert not isinstance(value, float), "a vector is wanted here"
    return value


def _unnamed(labels: Labels) -> Labels:
    return tuple(pair for pair in labels if pair[0] != "__name__")
