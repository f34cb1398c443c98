"""Converts a trained student for a target, and compares what the converted one answers with torch on real texts.

Every converter runs in an environment of its own, since their pins exclude ours (`stillhouse env make`). What this
machine cannot run is named, with the way to check it on a device. A file whose answers differ too often from torch's
(`least_agreement`) is kept, and its report says that it is not verified.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stillhouse.distill.export import LEAST_AGREEMENT
from stillhouse.distill.targets.program import load_program, program_path
from stillhouse.distill.targets.web_runtime import VERSION as WEB_VERSION
from stillhouse.distill.targets.web_runtime import runtime
from stillhouse.environments.environment import Name, python_of
from stillhouse.environments.running import run_job
from stillhouse.models.features import MODEL_FILE, TOKENIZER_FILE, Featuriser, StudentSpec, prepare
from stillhouse.models.port import ModelError
from stillhouse.models.student import open_session

Target = Literal["onnx", "litert", "coreml", "executorch", "web", "vllm"]
Precision = Literal["int8", "fp32"]
Rows = list[list[NDArray[Any]]]

TARGETS: Final[tuple[Target, ...]] = get_args(Target)
SUFFIXES: Final[dict[Target, str]] = {
    "onnx": ".onnx",
    "litert": ".tflite",
    "coreml": ".mlpackage",
    "executorch": ".pte",
    "web": ".onnx",
    "vllm": "",  # a folder
}
# The environment that a target's job runs in.
ENVIRONMENTS: Final[dict[Target, Name]] = {
    "litert": "litert",
    "coreml": "coreml",
    "executorch": "executorch",
    "vllm": "serving",
}
JOB: Final = Path(__file__).with_name("job.py")
WEB_JOB: Final = Path(__file__).with_name("web_job.mjs")
FAILED: Final = "failed: "
PER_TOKEN: Final = {"features": 4}  # hashed n-grams of a text, roughly, for each of its tokens
NOT_VERIFIED: Final[dict[Target, str]] = {
    "onnx": "",
    "litert": "Not verified: speed and memory on a phone, and delegates other than XNNPACK. Push the file with adb, "
    "run LiteRT's benchmark_model --graph=FILE --num_threads=1 there, and send the same inputs to the app.",
    "coreml": "Not verified: nothing was run, since only Apple's systems run Core ML. On a Mac: "
    "coremltools.models.MLModel(FILE).predict({...}) on the inputs of inputs.npz, compared with expected.npy beside "
    "the file (written by this export); then Xcode's performance report on the phone.",
    "executorch": "Not verified: speed and memory on the device, and backends other than XNNPACK. Build "
    "executor_runner for the device, push the file, and run it with --model_path=FILE.",
    "web": "Not verified: browsers, and WebGPU; the same WebAssembly ran in Node. Serve the file beside "
    "onnxruntime-web and open it in the browsers that you support.",
    "vllm": "Not verified: GPUs, their speed, and bfloat16 or float16; vLLM for CPUs answered here in float32. On the "
    "server: `vllm serve FOLDER --runner pooling --convert classify --dtype float32`, POST /classify with the same "
    "texts, and compare the labels; then again with the dtype that is to serve.",
}


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One converted student beside the trained torch module, on `n_compared` texts.

    `agreement_with_torch` of labels in [0, 1]; `n_truncated` texts were longer than the target's fixed length and are
    left out of the largest difference only. Milliseconds of one text on one thread of this machine; `memory_bytes` that
    loading and answering added to the process. All but size are None where nothing could be run here. `verified`: it
    agrees at least as often as was asked for; `verdict` says why or why not.
    """

    target: str
    precision: str
    file: str
    bytes: int
    exporter: str
    convert_seconds: float
    n_compared: int
    n_truncated: int
    max_abs_logit_difference: float | None
    agreement_with_torch: float | None
    p50_ms: float | None
    p95_ms: float | None
    memory_bytes: int | None
    not_verified: str
    verified: bool
    verdict: str


def export_for(
    target: Target,
    artefact: Path,
    texts: Sequence[str],
    out: Path,
    *,
    precision: Precision = "int8",
    length: int = 64,
    program: Path | None = None,
    least_agreement: float = LEAST_AGREEMENT,
    on_line: Callable[[str], None] | None = None,
) -> TargetReport:
    """Write the student of `artefact` for `target` into the folder `out`, and compare it with torch on `texts`.

    `length`: tokens that texts are padded or cut to where the target's shapes are fixed (litert); features four times
    as many.
    `program`: the trained module (of `save_program`); by default where the trainer keeps it. The targets onnx and web
    take the artefact's own graph, and vllm float32. The report says whether the target gives torch's label to at least
    `least_agreement` in [0, 1] of the texts; the file stays where it does not. Raises `ModelError`, `OSError`.
    """
    if not texts:
        raise ModelError("An export is compared on real texts; name a file that has some with --data.")
    if not 0.0 <= least_agreement <= 1.0:
        raise ModelError(f"A least agreement of {least_agreement:g} is no share; choose one from 0 to 1.")
    say = on_line or (lambda line: None)
    spec = StudentSpec.read(artefact)
    if length < 2:
        raise ModelError(f"A length of {length} is too short for a text; choose 2 to {spec.max_length}.")
    tokenizer = artefact / TOKENIZER_FILE
    featuriser = Featuriser(spec, tokenizer if tokenizer.is_file() else None)
    program = program or program_path(artefact)
    trained = load_program(program)
    named = [featuriser.inputs(prepare(text)) for text in texts]
    names = list(named[0])
    # The program takes a length of 1 for another one; an empty text gets a padding id more, which changes nothing.
    whole: Rows = [[_padded(row[name], max(2, row[name].shape[1])) for name in names] for row in named]
    expected = np.stack([trained(row) for row in whole])
    say(f"torch answered {len(texts):,} texts")
    out.mkdir(parents=True, exist_ok=True)
    if target == "vllm":
        precision = "fp32"
    file = out / (f"{artefact.name}-vllm" if target == "vllm" else f"{artefact.name}-{precision}{SUFFIXES[target]}")
    if target == "onnx" or target == "web":
        return _graph(target, artefact, file, names, whole, expected, least_agreement, say)

    lengths = {name: min(length * PER_TOKEN.get(name, 1), longest(spec, name)) for name in names}
    fixed = target == "litert"
    rows = [[_padded(one, lengths[name]) for name, one in zip(names, row, strict=True)] for row in whole]
    cut = [any(one.shape[1] > lengths[name] for name, one in zip(names, row, strict=True)) for row in whole]
    job: dict[str, Any] = {
        "target": target,
        "program": str(program.absolute()),
        "precision": precision,
        "names": names,
        "lengths": lengths,
        "longest": {name: longest(spec, name) for name in names},
    }
    given = rows if fixed else whole
    if target == "vllm":
        job |= _for_vllm(spec, tokenizer)
        # vLLM gets the texts themselves, so that its own tokenizer is compared too.
        given = [[np.frombuffer(prepare(text).encode(), dtype=np.uint8)] for text in texts]
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=out.absolute()) as work:
        staged = Path(work) / file.name
        job |= {"out": str(staged), "result": str(Path(work) / "result.json")}
        converted = _python(target, job | {"do": "convert"}, Path(work), say)
        say(f"{target}: converted in {converted['seconds']:.0f} s")
        answered: dict[str, Any] = {}
        said = None
        if target != "coreml":
            inputs, answers = Path(work) / "inputs.npz", Path(work) / "answers.npy"
            _save(inputs, job["names"], given)
            job |= {"inputs": str(inputs), "answers": str(answers)}
            answered = _python(target, job | {"do": "run"}, Path(work), say)
            said = np.load(answers)
            said = said * np.float32(spec.temperature) if target == "vllm" else said
        _replace(staged, file)
    if target == "coreml":
        _save(out / "inputs.npz", names, whole)
        np.save(out / "expected.npy", expected)
    cut = cut if fixed else [False] * len(cut)
    return _report(target, precision, file, converted, answered, said, expected, cut, least_agreement)


def _for_vllm(spec: StudentSpec, tokenizer: Path) -> dict[str, Any]:
    """What the job needs beside the weights. Raises `ModelError` where the student reads no whole texts of tokens."""
    if spec.inputs != "tokens":
        raise ModelError(
            f"vLLM serves students cut from the encoder alone, and {spec.student_id} is {spec.architecture}; export it "
            "with the target onnx and serve it on CPUs."
        )
    from stillhouse.distill.cut_encoder import encoder_source

    return {
        "names": ["text"],
        "labels": list(spec.labels),
        "temperature": spec.temperature,
        "max_length": spec.max_length,
        "tokenizer": str(tokenizer.absolute()),
        "encoder": str(encoder_source() / "config.json"),
    }


def longest(spec: StudentSpec, name: str) -> int:
    """The most tokens or features of the input `name`."""
    return spec.max_features if name == "features" and spec.inputs == "joint" else spec.max_length


def _graph(
    target: Target,
    artefact: Path,
    file: Path,
    names: list[str],
    rows: Rows,
    expected: NDArray[np.float32],
    least_agreement: float,
    say: Callable[[str], None],
) -> TargetReport:
    """The artefact's own graph, in ONNX Runtime or ONNX Runtime Web."""
    file = file.with_name(f"{artefact.name}{SUFFIXES[target]}")
    if target == "onnx":
        import onnxruntime

        before = _resident()
        session = open_session(artefact / MODEL_FILE)
        took, said = [], []
        for row in rows:
            begun = time.perf_counter()
            found = session.run(["logits"], dict(zip(names, row, strict=True)))
            took.append((time.perf_counter() - begun) * 1e3)
            said.append(np.asarray(found[0][0], dtype=np.float32))
        answered: dict[str, float] = {"memory_bytes": max(0, _resident() - before)}
        exporter = f"torch.onnx, onnxruntime {onnxruntime.__version__}"
    else:
        module = runtime(say)
        with tempfile.TemporaryDirectory() as work:
            result = Path(work) / "result.json"
            job = {
                "runtime": str(module),
                "out": str((artefact / MODEL_FILE).absolute()),
                "names": names,
                "rows": [[one[0].tolist() for one in row] for row in rows],
                "result": str(result),
            }
            _run(["node", str(WEB_JOB)], job, Path(work), target, say)
            found = json.loads(result.read_text(encoding="utf-8"))
        took, said = found["took"], [np.asarray(row, dtype=np.float32) for row in found["answers"]]
        answered = {"memory_bytes": int(found["memory_bytes"])}
        exporter = f"torch.onnx, onnxruntime-web {WEB_VERSION} on Node {found['node']}"
    answered |= {"p50_ms": float(np.percentile(took, 50)), "p95_ms": float(np.percentile(took, 95))}
    shutil.copyfile(artefact / MODEL_FILE, file.with_name(f".{file.name}.tmp"))
    file.with_name(f".{file.name}.tmp").replace(file)
    converted = {"seconds": 0.0, "version": exporter}
    cut = [False] * len(expected)
    return _report(target, "as served", file, converted, answered, np.stack(said), expected, cut, least_agreement)


def _report(
    target: Target,
    precision: str,
    file: Path,
    converted: dict[str, Any],
    answered: dict[str, Any],
    said: NDArray[np.float32] | None,
    expected: NDArray[np.float32],
    cut: list[bool],
    least_agreement: float,
) -> TargetReport:
    difference, agreement = None, None
    if said is not None:
        if said.shape != expected.shape:
            raise ModelError(f"{target}: answered {said.shape} where torch gives {expected.shape}; the file is not it.")
        whole = ~np.array(cut)
        difference = float(np.abs(said - expected)[whole].max()) if whole.any() else None
        agreement = float((said.argmax(axis=1) == expected.argmax(axis=1)).mean())
    size = sum(one.stat().st_size for one in file.rglob("*") if one.is_file()) if file.is_dir() else file.stat().st_size
    return TargetReport(
        target=target,
        precision=precision,
        file=str(file),
        bytes=size,
        exporter=str(converted["version"]),
        convert_seconds=float(converted["seconds"]),
        n_compared=0 if said is None else len(expected),
        n_truncated=sum(cut),
        max_abs_logit_difference=difference,
        agreement_with_torch=agreement,
        p50_ms=answered.get("p50_ms"),
        p95_ms=answered.get("p95_ms"),
        memory_bytes=answered.get("memory_bytes"),
        not_verified=NOT_VERIFIED[target],
        verified=agreement is not None and agreement >= least_agreement,
        verdict=_verdict(agreement, least_agreement, len(expected)),
    )


def _verdict(agreement: float | None, least: float, count: int) -> str:
    if agreement is None:
        return "nothing was run on this machine"
    found = f"gives torch's label to {agreement:.1%} of {count:,} texts"
    return f"{found}, {'at least' if agreement >= least else 'under'} the {least:.1%} asked for"


def _padded(ids: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """`ids` int64 [1, n] as int64 [1, length]: cut, or filled with padding, which is 0 in every input."""
    found = np.zeros((1, length), dtype=np.int64)
    kept = min(length, ids.shape[1])
    found[:, :kept] = ids[:, :kept]
    return found


def _save(path: Path, names: list[str], rows: Rows) -> None:
    arrays = {f"{name}_{i}": one for i, row in enumerate(rows) for name, one in zip(names, row, strict=True)}
    np.savez(path, allow_pickle=False, count=np.array(len(rows)), **arrays)


def _replace(staged: Path, file: Path) -> None:
    if file.is_dir():
        shutil.rmtree(file)
    staged.replace(file)


def _python(target: Target, job: dict[str, Any], work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    _run([str(python_of(ENVIRONMENTS[target], say)), str(JOB)], job, work, target, say)
    found: dict[str, Any] = json.loads(Path(job["result"]).read_text(encoding="utf-8"))
    return found


def _run(command: list[str], job: dict[str, Any], work: Path, name: str, say: Callable[[str], None]) -> None:
    path = work / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    environ = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    code, last = run_job([*command, str(path)], work, environ, say)
    if code == -9:
        raise ModelError(f"{name}: the conversion was killed, most likely for want of memory; free some and try again.")
    if code != 0:
        raise ModelError(f"{name}: {job.get('do', 'run')} failed: {last.removeprefix(FAILED)[:300]}")


def _resident() -> int:
    """The memory that this process holds, in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
