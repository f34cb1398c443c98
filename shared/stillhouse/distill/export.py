"""From a trained student to the files that serve: an int8 ONNX graph, `student.json` and, for tokens, the tokenizer.

Tables of vectors are kept as int8 with one scale a row. Matrices are quantised dynamically, one scale a column, by ONNX
Runtime; their activations are scaled by text, in the feed-forward layers by token, which is deterministic because texts
are served one at a time. What the files answer is compared with the trained module before anybody else judges them.
"""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stillhouse.distill.confidence import fit_confidence
from stillhouse.distill.data import LabelledText
from stillhouse.distill.training import TrainedStudent
from stillhouse.models.confidence import Confidence, Kind
from stillhouse.models.features import CENTROIDS_FILE, MODEL_FILE, TOKENIZER_FILE, Featuriser, Inputs, prepare
from stillhouse.models.port import ModelError
from stillhouse.models.student import OnnxStudent

LEAST_AGREEMENT: Final = 0.97
MOST_COMPARED: Final = 1000
# Bits of tables and matrices, smallest first. The next one is tried where one changes too many answers.
LEVELS: Final = {
    "hashed_ngrams": ((8, 32), (32, 32)),
    "static_embeddings": ((8, 32), (32, 32)),
    "text_cnn": ((8, 32), (32, 32)),
    "cut_encoder": ((8, 8), (32, 8), (32, 32)),
    "joint": ((8, 8), (32, 8), (32, 32)),
}
NAMES: Final[dict[Inputs, tuple[str, ...]]] = {
    "hashed_ngrams": ("features",),
    "token_ids": ("features",),
    "tokens": ("input_ids", "attention_mask"),
    "joint": ("features", "input_ids", "attention_mask"),
}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, and how it compares with the trained module on `n_compared` select texts.

    `bytes` of all files; `agreement_with_torch` in [0, 1] of labels; `table_bits` and `matrix_bits` are 8 or 32;
    `export_seconds` of wall clock.
    """

    bytes: int
    max_abs_logit_difference: float
    agreement_with_torch: float
    n_compared: int
    table_bits: int
    matrix_bits: int
    export_seconds: float


class Int8Rows(nn.Module):
    """A table of vectors as int8 with one float32 scale a row: a quarter of the bytes, at most 0.4 % of a row's largest
    value wrong.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, table: Tensor) -> None:
        """`table` float32 [rows, width]."""
        super().__init__()
        scales = table.abs().amax(dim=1, keepdim=True) / 127.0
        codes = torch.round(table / scales.clamp(min=1e-12)).to(torch.int8)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors float32 [..., width] of `rows` int [...]."""
        codes = nn.functional.embedding(rows, self.codes).to(torch.float32)
        return codes * nn.functional.embedding(rows, self.scales)


def export(trained: TrainedStudent, folder: Path, student_id: str, confidence: Kind = "learned") -> ExportReport:
    """Write the student's files into `folder`, which exists, and compare what they answer with the trained module.

    `confidence` says how the student tells how sure it is; a learned one is fitted on what the files answer, and is the
    largest probability where there is too little to learn from. Where int8 changes more than 3 % of answers, less is
    quantised. Raises `ModelError` where even the float graph differs, and `OSError`.
    """
    started = time.monotonic()
    texts = _evenly(trained.select_texts, MOST_COMPARED)
    featuriser = Featuriser(replace(trained.spec, student_id=student_id), trained.tokenizer)
    expected = np.stack([_logits(trained, featuriser, text) for text in texts])
    # Nothing is learned yet; the graph answers the same.
    plain = replace(trained.spec, student_id=student_id, confidence=Confidence(_plain(confidence)))
    plain.write(folder)
    if trained.centroids is not None:
        np.save(folder / CENTROIDS_FILE, trained.centroids, allow_pickle=False)
    if trained.tokenizer is not None:
        shutil.copyfile(trained.tokenizer, folder / TOKENIZER_FILE)
    agreement = 0.0
    for table_bits, matrix_bits in LEVELS[trained.candidate.architecture]:
        _write_graph(trained, folder / MODEL_FILE, table_bits, matrix_bits)
        student = OnnxStudent(folder)
        answered = np.stack([student.logits(text) for text in texts])
        agreement = float((answered.argmax(axis=1) == expected.argmax(axis=1)).mean())
        if agreement >= LEAST_AGREEMENT:
            learnt = _learned(student, trained.held) if confidence == "learned" else None
            if learnt is not None:
                replace(plain, confidence=learnt).write(folder)
            return ExportReport(
                bytes=sum(path.stat().st_size for path in folder.iterdir()),
                max_abs_logit_difference=float(np.abs(answered - expected).max()),
                agreement_with_torch=agreement,
                n_compared=len(texts),
                table_bits=table_bits,
                matrix_bits=matrix_bits,
                export_seconds=time.monotonic() - started,
            )
    raise ModelError(
        f"Student {student_id}: the exported graph gives the trained module's label for only {agreement:.1%} of "
        f"{len(texts)} texts, also without quantisation; install the pinned torch and onnxruntime and train anew."
    )


def _logits(trained: TrainedStudent, featuriser: Featuriser, text: str) -> NDArray[np.float32]:
    """What the trained module answers to one text, float32 [labels]."""
    with torch.no_grad():
        said = trained.module(*(torch.from_numpy(value) for value in featuriser.inputs(prepare(text)).values()))
    logits = said[0] if trained.spec.has_vectors else said
    return np.asarray(logits[0].float().numpy(), dtype=np.float32)


def _plain(kind: Kind) -> Kind:
    return "max_probability" if kind == "learned" else kind


def _learned(student: OnnxStudent, held: Sequence[LabelledText]) -> Confidence | None:
    """The learned confidence, from what the exported student says of the held texts."""
    if not held:
        return None
    seen = np.stack([student.signals(text.text) for text in held])
    return fit_confidence(seen, np.array([student.predict_text(text.text)[0] == text.label for text in held]))


def _write_graph(trained: TrainedStudent, path: Path, table_bits: int, matrix_bits: int) -> None:
    module: Any = trained.module
    if table_bits == 8:
        module = copy.deepcopy(module)
        if trained.spec.inputs == "token_ids":
            module.rows.table = Int8Rows(module.rows.table.weight.detach())
        if trained.spec.inputs in ("hashed_ngrams", "joint"):
            ngrams = module.ngrams if trained.spec.inputs == "joint" else module
            ngrams.table = Int8Rows(ngrams.table.weight.detach())
        if trained.spec.has_vectors:
            encoder = module.tuned if trained.spec.inputs == "joint" else module
            embeddings = encoder.transformer.embeddings
            embeddings.word_embeddings = Int8Rows(embeddings.word_embeddings.weight.detach())
    names = NAMES[trained.spec.inputs]
    spec = trained.spec
    length = torch.export.Dim("length", max=spec.max_length)
    features = torch.export.Dim("features", max=spec.max_features) if spec.inputs == "joint" else length
    write_onnx(
        module,
        tuple(torch.ones(1, 16, dtype=torch.long) for _ in names),
        path,
        names=names,
        outputs=["logits", "pooled"] if spec.has_vectors else ["logits"],
        axes=[{1: features if name == "features" else length} for name in names],
        matrix_bits=matrix_bits,
    )


def write_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    names: Sequence[str],
    outputs: Sequence[str],
    axes: Sequence[dict[int, Any]],
    matrix_bits: int,
) -> None:
    """Write the graph of `module`, float32 or with int8 matrices (`matrix_bits` 32 or 8).

    `axes`: the axes of each input that may vary, as `torch.export.Dim`. Raises `ModelError` where torch exports none.
    """
    quiet = logging.getLogger("torch.onnx")
    before = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns of deprecations inside itself, on every call; none of them is ours to mend.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                verbose=False,
                input_names=list(names),
                output_names=list(outputs),
                dynamic_shapes=tuple(axes),
            )
    finally:
        quiet.setLevel(before)
    if program is None:
        raise ModelError("torch exported no graph of the student; install the pinned torch.")
    if matrix_bits == 32:
        program.save(str(path), external_data=False)
        return
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / MODEL_FILE
        program.save(str(plain), external_data=False)
        quantise_matrices(plain, path)


def quantise_matrices(source: Path, target: Path) -> None:
    """Dynamic int8 of every MatMul by a constant, the same on every x64 machine (`codes_of`).

    ONNX Runtime scales a text's activations by their largest value, and the feed-forward layers of an encoder have
    tokens whose values are many times those of the others, which int8 then rounds away. `scale_tokens` stands in front.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)  # it recommends a pre-processing that this graph does not need
    try:
        model = onnx.load(str(source))
        scale_tokens(model)
        plain = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        quantize_dynamic(
            model,
            str(target),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=False,
            weight_type=QuantType.QInt8,
        )
        quantised = onnx.load(str(target))
        held = {one.name: one for one in quantised.graph.initializer}
        for name in {node.input[1] for node in quantised.graph.node if node.op_type == "MatMulInteger"}:
            of = name.removesuffix("_quantized")
            # The quantiser has turned the head's matrix round.
            codes, scales = codes_of(plain[of] if of in plain else plain[of.removesuffix("_Transposed")].T)
            held[name].CopyFrom(onnx.numpy_helper.from_array(codes, name))
            held[f"{of}_scale"].CopyFrom(onnx.numpy_helper.from_array(scales, f"{of}_scale"))
        onnx.save(quantised, str(target))
    finally:
        root.setLevel(before)


def codes_of(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix [K, N] as int8 and one scale a column, float32 [N], no two neighbours of a column (rows 2i and 2i + 1)
    larger together than 128.

    Processors without VNNI add two products u8 * s8 in 16 bits (vpmaddubsw), where 255 * 129 saturates: answers would
    depend on the machine. Keeping 7 bits of every weight (`reduce_range`) has the same end, and codes half as many.

    Example:
        >>> codes, scales = codes_of(np.array([[0.5, 1.0], [0.1, -1.0]], dtype=np.float32))
        >>> codes.tolist()
        [[106, 64], [21, -64]]
    """
    sizes = np.abs(matrix)
    paired = sizes[0 : len(sizes) - 1 : 2] + sizes[1::2]
    # Rounding adds 1 to a pair at most.
    scales = np.maximum(np.maximum(sizes.max(axis=0) / 127, paired.max(axis=0, initial=0) / 127), 1e-12)
    return np.round(matrix / scales).astype(np.int8), scales.astype(np.float32)


def scale_tokens(model: Any) -> None:
    """Divide what each matrix [K, N], K other than N, is multiplied with by each token's largest value, and multiply it
    back behind: `x @ w = max|x| * ((x / max|x|) @ w)`, one scale a token (Dettmers et al. 2208.07339, vector-wise).

    `model`, an ONNX model, is changed. Square matrices are those of attention, which gain nothing and cost most.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    wide = [
        node
        for node in graph.node
        if node.op_type == "MatMul" and len(shape := shapes.get(node.input[1], ())) == 2 and shape[0] != shape[1]
    ]
    if not wide:
        return
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "last_axis"))
    graph.initializer.append(numpy_helper.from_array(np.array(1e-12, np.float32), "least_scale"))
    read_by = {str(node.output[0]): str(node.input[0]) for node in wide}
    nodes, scaled = [], set()
    for node in graph.node:
        if (x := read_by.get(node.output[0] if node.output else "")) is None:
            nodes.append(node)
            continue
        if x not in scaled:
            scaled.add(x)
            nodes += [
                helper.make_node("Abs", [x], [f"{x}_token_abs"]),
                helper.make_node("ReduceMax", [f"{x}_token_abs", "last_axis"], [f"{x}_token_largest"], keepdims=1),
                helper.make_node("Max", [f"{x}_token_largest", "least_scale"], [f"{x}_token_scale"]),
                helper.make_node("Div", [x, f"{x}_token_scale"], [f"{x}_by_token"]),
            ]
        product = str(node.output[0])
        node.input[0], node.output[0] = f"{x}_by_token", f"{product}_by_token"
        nodes += [node, helper.make_node("Mul", [f"{product}_by_token", f"{x}_token_scale"], [product])]
    del graph.node[:]
    graph.node.extend(nodes)


def _evenly(texts: tuple[str, ...], most: int) -> tuple[str, ...]:
    """At most `most` of `texts`, evenly spaced."""
    if len(texts) <= most:
        return texts
    return tuple(texts[i] for i in np.linspace(0, len(texts) - 1, most).round().astype(int))
