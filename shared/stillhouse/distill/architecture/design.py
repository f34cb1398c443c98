"""Which student architectures fit a target: costs predicted, those of promising ones measured, one recommended.

All shapes of a grid are predicted (`counting`, `cost_model`), those on the Pareto front of latency and quality are
built and timed in ONNX Runtime, and the front is drawn again from what was measured, until it holds measured ones only:
a search under measured latency (as Cai et al. 1812.00332 and Wang et al. 2005.14187 search, for a grid this small).
Students without attention stand beside them, as they were trained on a sample and measured (`small_students`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from stillhouse.distill.architecture.cost_model import CostModel
from stillhouse.distill.architecture.counting import (
    EncoderShape,
    activation_bytes,
    matrix_flops,
    parameters,
    weight_bytes,
)
from stillhouse.distill.architecture.encoder_graph import Cost
from stillhouse.distill.architecture.footprint import expected_memory
from stillhouse.distill.architecture.objectives import objectives
from stillhouse.distill.architecture.quality import Trained, learning_curve, over_operations
from stillhouse.distill.architecture.small_students import NAMES, SmallStudent
from stillhouse.models.port import ModelError

SHARES: Final = (1.0, 0.5, 0.25)
MOST_ROUNDS: Final = 4
# Tables of vectors stay float32 where the exporter leaves them so.
TABLE_BITS: Final = {"onnx": 8, "web": 8, "litert": 8, "coreml": 8, "executorch": 32}
# Share of the teacher's quality that students of a share of its depth kept, as published.
PUBLISHED: Final = (
    (0.5, 0.97, "DistilBERT, GLUE (Sanh et al. 1910.01108)"),
    (0.33, 0.968, "TinyBERT-4, GLUE (Jiao et al. 1909.10351)"),
)
CUT: Final = "cut_encoder"
EPOCHS: Final = ("5", "what some thousand short texts need; the kept epoch has the smallest loss on held texts")
OF_SMALL: Final = {
    "temperature": ("2", "soft targets (Hinton et al. 1503.02531); the default: objectives were compared on encoders"),
    "alpha": ("0.2", "weight of hard labels; the default, for the same reason"),
    "epochs": ("12", "the architecture's default; the kept epoch has the smallest loss on held texts"),
    "batch_size": ("64", "the architecture's default"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a student may cost: milliseconds of one text, bytes of its file, and agreement in [0, 1]; None: any."""

    max_latency_ms: float | None = None
    max_bytes: int | None = None
    min_quality: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One architecture. `quality` is expected agreement, and `basis` what it rests on: `curves`, `published` or `none`.

    `shape` of an encoder, None of others. `memory_bytes` are predicted (`footprint.expected_memory`);
    `measured_memory_bytes` the peak of a process that loads it and answers, and `measured_ms`, where its graph was
    built and run. `misses` names the limits that it does not keep. `trainable`: by `[[student]]` as it stands.
    """

    name: str
    architecture: str
    shape: EncoderShape | None
    parameters: int
    bytes: int
    memory_bytes: int
    flops: int
    predicted_ms: float
    measured_ms: float | None
    measured_memory_bytes: int | None
    quality: float | None
    basis: str
    on_front: bool
    misses: tuple[str, ...]
    trainable: bool

    @property
    def ms(self) -> float:
        """Measured where it is, else predicted."""
        return self.predicted_ms if self.measured_ms is None else self.measured_ms


@dataclass(frozen=True, slots=True)
class Design:
    """Candidates, fastest first; the recommended one's name, None where none keeps the limits; and why."""

    target: str
    length: int
    cost_model_error: float
    candidates: list[Candidate]
    recommended: str | None
    method: dict[str, tuple[str, str]]
    tradeoffs: list[str]
    trained: list[Trained]


def grid(teacher: EncoderShape, labels: int) -> list[tuple[str, EncoderShape, bool]]:
    """(name, shape, trainable) of students of `teacher`: fewer layers, and in them fewer heads and inner neurons."""
    found = []
    depths = sorted({1, 2, 3, 4, max(1, teacher.layers // 2), teacher.layers} & set(range(1, teacher.layers + 1)))
    size = teacher.inner // teacher.heads
    for layers in depths:
        for share in SHARES:
            heads = max(1, round(teacher.heads * share))
            shape = replace(
                teacher,
                layers=layers,
                heads=heads,
                attention=heads * size,
                ffn=max(1, round(teacher.ffn * share)),
                labels=labels,
            )
            name = f"{layers} layers" if layers > 1 else "1 layer"
            trainable = 2 <= layers <= 6
            found.append((name if share == 1.0 else f"{name}, {share:.0%} of heads and neurons", shape, trainable))
    return found


def design(
    teacher: EncoderShape,
    target: str,
    limits: Limits,
    model: CostModel,
    measure: Callable[[EncoderShape, int], Cost],
    *,
    labels: int = 2,
    length: int = 32,
    trained: Sequence[Trained] = (),
    texts: int = 0,
    small: Sequence[SmallStudent] = (),
    cuttable: bool = True,
    own: EncoderShape | None = None,
    soft: bool = True,
) -> Design:
    """Predict every shape of the grid, measure the front, recommend one.

    `trained` are cut encoders trained on a sample, from which the agreement after learning from `texts` is expected,
    and `small` students without attention. `cuttable`: `teacher` is the encoder that `[[student]]` cuts. Where it is
    another one, its shapes are not trainable and no curve is theirs; `own` is then the shape of the encoder that is
    cut, whose students learn the teacher's answers. `soft`: the texts have probabilities. Raises `ModelError`.
    """
    require_target(target)
    made = [
        _candidate(
            name, shape, trainable and cuttable, teacher, target, model, length, trained if cuttable else (), texts
        )
        for name, shape, trainable in grid(teacher, labels)
    ]
    if own is not None and trained and not cuttable:
        made += [
            _candidate(f"minilm, {name}", shape, trainable, own, target, model, length, trained, texts)
            for name, shape, trainable in grid(own, labels)
        ]
    made += [_made(one, texts) for one in small]
    for _ in range(MOST_ROUNDS):
        front = _front(made)
        todo = [one.name for one in made if one.name in front and one.measured_ms is None]
        if not todo:
            break
        made = [_measured(one, measure, length) if one.name in todo else one for one in made]
    front = _front(made)
    made = [replace(one, on_front=one.name in front, misses=_misses(one, limits)) for one in made]
    made.sort(key=lambda one: one.ms)
    fitting = [one for one in made if not one.misses]
    best = _best(fitting, limits)
    return Design(
        target=target,
        length=length,
        cost_model_error=model.error,
        candidates=made,
        recommended=best.name if best else None,
        method=_method(best, teacher if cuttable or own is None else own, soft) if best else {},
        tradeoffs=_tradeoffs(made, best, target, bool(trained), cuttable),
        trained=[*trained, *(point for one in small for point in one.trained)],
    )


def _method(best: Candidate, whole: EncoderShape, soft: bool) -> dict[str, tuple[str, str]]:
    """How `best` learns, as `[[student]]` has it: (value, source) of each setting; `whole` is the encoder cut."""
    if best.shape is None:
        return {"architecture": (best.architecture, "this design")} | OF_SMALL
    share = best.shape.heads / whole.heads
    first, *others = objectives(soft)
    found = {"architecture": (CUT, "this design"), "layers": (str(best.shape.layers), "this design")}
    if share < 1:
        found["width"] = (f"{share:g}", "this design; heads and inner neurons")
    found["distill"] = (first.written, first.source)
    if others:
        found["next best distill"] = (others[0].written, others[0].source)
    return found | {
        "epochs": EPOCHS,
        "batch_size": ("32", "the architecture's default"),
        "learning_rate": ("1e-3, ten times that in the head", "only the last layer learns; `distill.training`"),
    }


def require_target(target: str) -> None:
    """Raises `ModelError` for a target whose costs are not predicted."""
    if target not in TABLE_BITS:
        raise ModelError(
            f"There is no target {target!r}; targets are {', '.join(TABLE_BITS)}. What a GPU would take is not "
            "predicted here; measure it there."
        )


def expected_agreement(
    shape: EncoderShape, teacher: EncoderShape, length: int, trained: Sequence[Trained], texts: int
) -> float:
    """Agreement after learning from `texts`, from the learning curves of the depths trained, over operations."""
    points = []
    trained = [one for one in trained if one.architecture == CUT]
    for layers in sorted({one.layers for one in trained}):
        curve = learning_curve([(one.texts, one.agreement) for one in trained if one.layers == layers])
        points.append((float(matrix_flops(replace(teacher, layers=layers), length)), curve.agreement(texts)))
    exact = [agreement for flops, agreement in points if flops == matrix_flops(shape, length)]
    return exact[0] if exact else over_operations(points, float(matrix_flops(shape, length)))


def _candidate(
    name: str,
    shape: EncoderShape,
    trainable: bool,
    teacher: EncoderShape,
    target: str,
    model: CostModel,
    length: int,
    trained: Sequence[Trained],
    texts: int,
) -> Candidate:
    quality, basis = None, "none"
    if trained:
        whole = replace(teacher, labels=shape.labels)
        quality, basis = expected_agreement(shape, whole, length, trained, texts), "curves"
    elif shape.inner == teacher.inner:
        known = [kept for share, kept, _ in PUBLISHED if abs(shape.layers / teacher.layers - share) < 0.05]
        quality, basis = (known[0], "published") if known else (None, "none")
    size = weight_bytes(shape, 8, TABLE_BITS[target])
    return Candidate(
        name=name,
        architecture=CUT,
        shape=shape,
        parameters=parameters(shape),
        bytes=size,
        memory_bytes=expected_memory(size, activation_bytes(shape, length) // shape.layers),
        flops=matrix_flops(shape, length),
        predicted_ms=model.predict(shape, length),
        measured_ms=None,
        measured_memory_bytes=None,
        quality=quality,
        basis=basis,
        on_front=False,
        misses=(),
        trainable=trainable,
    )


def _made(one: SmallStudent, texts: int) -> Candidate:
    """A student that was trained and measured: nothing is predicted but the quality after more texts."""
    return Candidate(
        name=NAMES[one.architecture],
        architecture=one.architecture,
        shape=None,
        parameters=one.parameters,
        bytes=one.bytes,
        memory_bytes=expected_memory(one.bytes, 0),
        flops=one.flops,
        predicted_ms=one.ms,
        measured_ms=one.ms,
        measured_memory_bytes=one.memory_bytes,
        quality=one.agreement(texts),
        basis="curves",
        on_front=False,
        misses=(),
        trainable=True,
    )


def _measured(one: Candidate, measure: Callable[[EncoderShape, int], Cost], length: int) -> Candidate:
    if one.shape is None:
        return one
    cost = measure(one.shape, length)
    return replace(one, measured_ms=cost.ms, measured_memory_bytes=cost.memory_bytes)


def _front(made: Sequence[Candidate]) -> set[str]:
    """Names of those that no other one beats in latency and in quality (weights, where no quality is known).

    Where qualities of some are known, of those alone: what is not known beats nobody.
    """
    made = [one for one in made if one.basis == "curves"] or made

    def worth(one: Candidate) -> float:
        return one.quality if one.quality is not None and one.basis == "curves" else float(one.parameters)

    return {
        one.name
        for one in made
        if not any(
            other.ms <= one.ms and worth(other) >= worth(one) and (other.ms < one.ms or worth(other) > worth(one))
            for other in made
        )
    }


def _misses(one: Candidate, limits: Limits) -> tuple[str, ...]:
    found = []
    if limits.max_latency_ms is not None and one.ms > limits.max_latency_ms:
        found.append("latency")
    if limits.max_bytes is not None and one.bytes > limits.max_bytes:
        found.append("size")
    if limits.min_quality is not None and (one.quality is None or one.quality < limits.min_quality):
        found.append("quality" if one.quality is not None else "quality (not known)")
    return tuple(found)


def _best(fitting: Sequence[Candidate], limits: Limits) -> Candidate | None:
    """With a floor of quality the fastest one that keeps it, else the best one; of those that can be trained."""
    able = [one for one in fitting if one.trainable]
    if not able:
        return None
    if limits.min_quality is not None:
        return min(able, key=lambda one: one.ms)
    return max(able, key=lambda one: (one.quality or 0.0, one.parameters))


def _tradeoffs(
    made: Sequence[Candidate], best: Candidate | None, target: str, from_data: bool, cuttable: bool
) -> list[str]:
    said = []
    if not cuttable:
        said.append(
            "[[student]] cuts minilm alone: students of this teacher's own shape are shown for their cost, cannot be "
            "trained by it, and have no quality measured here"
            + (
                "; those named minilm, and those without attention, learn this teacher's answers."
                if from_data
                else ". Name the teacher's answers with --data to see students that can learn them."
            )
        )
    encoders = [one for one in made if one.shape is not None]
    rated = [one for one in made if one.basis == "curves"] or made
    large = max(rated, key=lambda one: one.flops)
    able = [one for one in made if one.trainable]
    if best is None and able:
        count: dict[str, int] = {}
        for miss in (miss for one in able for miss in one.misses):
            count[miss] = count.get(miss, 0) + 1
        worst = max(count, key=lambda miss: count[miss])
        said.append(f"No student that can be trained keeps the limits; most miss {worst}. Loosen it, or ask for less.")
    if best is not None:
        beside = "the largest of these"
        if large is not best:
            beside = f"{large.ms / best.ms:.1f} times faster than {large.name}, and {_times(large.bytes, best.bytes)}"
        said.append(f"{best.name}: {best.ms:.2f} ms and {best.bytes / 1e6:.1f} MB, {beside}.")
        if large is not best and best.quality is not None and large.quality is not None:
            said.append(f"It is expected to cost {100 * (large.quality - best.quality):.1f} points of quality.")
    fast = encoders[0]
    if fast.shape is not None and fast.shape.vocabulary * fast.shape.width > fast.bytes / 2:
        said.append("Most of every encoder's size is its table of words: fewer layers save time more than bytes.")
    if not from_data:
        said.append("Quality is what was published for other data, or unknown; name yours with --data.")
        said.append("Hashed n-grams, static embeddings and text CNNs depend on the texts: --data shows them too.")
    else:
        said.append("Quality of narrowed students is read off the curve of depths; `make bench NAME=design` checks it.")
        said.append("Students without attention are as they came from the sample; more words make them larger.")
    if target != "onnx":
        said.append(
            f"Latency, measured memory and the size of students without attention are ONNX Runtime's on this machine; "
            f"a {target} device has its own: measure it there."
        )
    if any(one.shape is not None and one.shape.layers == 1 for one in made):
        said.append("Those of one layer are shown for their cost; training makes 2 to 6 layers.")
    return said


def _times(large: int, small: int) -> str:
    return f"{large / small:.1f} times smaller" if large >= small else f"{small / large:.1f} times larger"
