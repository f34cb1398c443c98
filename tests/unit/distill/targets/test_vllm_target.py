"""The checkpoint for vLLM computes what the student does; vLLM itself reads it in tests/integration/distill."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from stillhouse.distill.heads import head
from stillhouse.distill.targets import vllm_target

LABELS = ["order", "refund", "other"]
TEMPERATURE = 1.7
SHAPE = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 50,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


class Student(nn.Module):
    """Named as `CutEncoder`'s parameters are."""

    def __init__(self, hidden: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = BertModel(BertConfig(**SHAPE, num_hidden_layers=2), add_pooling_layer=False)
        self.head = head(SHAPE["hidden_size"], len(LABELS), hidden)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job whose program is `student(...)`'s weights."""
    (tmp_path / "encoder.json").write_text(json.dumps(SHAPE | {"num_hidden_layers": 6}), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")

    def of(student):
        monkeypatch.setattr(torch.export, "load", lambda path: SimpleNamespace(state_dict=student.state_dict()))
        return {
            "program": "student.pt2",
            "out": str(tmp_path / "out"),
            "labels": LABELS,
            "temperature": TEMPERATURE,
            "max_length": 16,
            "tokenizer": str(tmp_path / "tokenizer.json"),
            "encoder": str(tmp_path / "encoder.json"),
        }

    return of


def test_the_pooler_passes_the_mean_on_and_the_head_is_calibrated(job, tmp_path) -> None:
    student = Student().eval()
    vllm_target.convert(job(student))
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert [model.config.id2label[i] for i in range(3)] == LABELS
    ids = torch.randint(1, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pooled = student.transformer(ids).last_hidden_state.mean(dim=1)
        wanted = student.head(pooled) / TEMPERATURE
        # What vLLM's BERT does of the mean: transformers' own takes the first token's state.
        mean = model.bert(ids).last_hidden_state.mean(dim=1)
        said = model.classifier(torch.tanh(model.bert.pooler.dense(mean)))
    torch.testing.assert_close(said, wanted, atol=1e-6, rtol=1e-5)
    assert json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True
    assert json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())["max_seq_length"] == 16
    kinds = [one["type"].rsplit(".")[-1] for one in json.loads((tmp_path / "out" / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize"], "without the last vLLM answers with logits"


def test_what_vllm_has_no_model_for_is_refused_and_leaves_nothing(job, tmp_path) -> None:
    with pytest.raises(ValueError, match="with a linear head"):
        vllm_target.convert(job(Student(hidden=8)))
    narrowed = Student()
    narrowed.transformer.encoder.layer[0].attention.self.query = nn.Linear(64, 32)
    with pytest.raises(ValueError, match=r"narrowed to 32; train it with width = 1"):
        vllm_target.convert(job(narrowed))
    assert not (tmp_path / "out").exists()
