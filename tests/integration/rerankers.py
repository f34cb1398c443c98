"""Rerankers small enough to make in each test: a cross-encoder that scores a document by what its tokens weigh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from stillhouse.events import ArtefactRef
from stillhouse.models.artefact import write_manifest
from stillhouse.models.confidence import Confidence
from stillhouse.models.features import MODEL_FILE, TOKENIZER_FILE
from stillhouse.models.rerank_student import RerankSpec
from stillhouse.models.rerank_text import LEXICON_FILE, Lexicon

WORDS = ("good", "fine", "poor", "bad", "text", "apple", "pear")
WEIGHTS = {"good": 3.0, "fine": 1.0, "poor": -1.0, "bad": -3.0}


def write_reranker(
    parent: Path,
    reranker_id: str = "ranks-1",
    weights: Mapping[str, float] = WEIGHTS,
    confidence: Confidence | None = None,
) -> ArtefactRef:
    """A reranker whose graph adds up the weights of a document's words; the query plays no part in it."""
    folder = parent / reranker_id
    folder.mkdir(parents=True)
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
    tokenizer = Tokenizer(WordLevel({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / TOKENIZER_FILE))
    table = np.array([weights.get(name, 0.0) for name in names], dtype=np.float32)
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["found"]),
            helper.make_node("Mul", ["attention_mask", "token_type_ids"], ["read"]),
            helper.make_node("Cast", ["read"], ["share"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["found", "share"], ["counted"]),
            helper.make_node("ReduceSum", ["counted", "axes"], ["scores"], keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "n"]) for name in inputs],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, str(folder / MODEL_FILE))
    Lexicon.fit(WORDS).write(folder / LEXICON_FILE)
    RerankSpec(reranker_id, "cross_encoder", 32, confidence=confidence or Confidence()).write(folder)
    return write_manifest(folder)
