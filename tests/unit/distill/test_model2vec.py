"""Vectors of a folder in Model2Vec's format (0.10): read as it reads them, learnt from, served with its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from stillhouse.distill.data import LabelledText
from stillhouse.distill.export import export
from stillhouse.distill.model2vec import model2vec_vectors
from stillhouse.distill.static_embeddings import SCALE
from stillhouse.distill.training import train
from stillhouse.models.port import ModelError
from stillhouse.models.student import OnnxStudent
from stillhouse.tasks import StudentCandidate

WORDS = ("[PAD]", "[UNK]", "where", "is", "my", "parcel", "order", "money", "back", "refund", "please")
DIM = 8
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), DIM)).astype(np.float32)


def written(folder: Path, words=WORDS, **tensors) -> Path:
    """A folder as `StaticModel.save_pretrained` writes it: vectors, tokenizer, config, and what is for others."""
    folder.mkdir()
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if "[PAD]" in words:
        tokenizer.enable_padding(pad_id=words.index("[PAD]"), pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    save_file({"embeddings": VECTORS, **tensors}, folder / "model.safetensors")
    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "normalize": True,
        "embedding_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_every_token_has_its_vector_and_what_says_nothing_has_none(tmp_path) -> None:
    vectors = model2vec_vectors(written(tmp_path / "v")).numpy()
    expected = VECTORS.copy()
    expected[:2] = 0.0  # padding, and unknown words, which Model2Vec leaves out of its means
    assert np.allclose(vectors, expected * (SCALE / expected.std(ddof=1)), atol=1e-6)


def test_quantised_vocabularies_are_spread_out_again(tmp_path) -> None:
    mapping, weights = np.arange(len(WORDS)) % 3, np.linspace(0.5, 1.5, len(WORDS)).astype(np.float32)
    folder = written(tmp_path / "v", embeddings=VECTORS[:3].astype(np.float16), mapping=mapping, weights=weights)
    vectors = model2vec_vectors(folder).numpy()
    assert vectors.shape == (len(WORDS), DIM)
    assert np.allclose(vectors[8] / weights[8], vectors[5] / weights[5], atol=1e-5)  # both are of row 2


@pytest.mark.parametrize("architecture", ["static_embeddings", "text_cnn"])
def test_a_student_starts_from_them_and_serves_with_their_tokenizer(tmp_path, architecture) -> None:
    folder = written(tmp_path / "v")
    asked, paid = ("where is my parcel", "my order please where"), ("money back", "refund my money please")
    texts = [LabelledText(text, "order") for text in asked] + [LabelledText(text, "refund") for text in paid]
    candidate = StudentCandidate(
        architecture=architecture, vectors=folder, hidden=0, filters=8, epochs=40, batch_size=4, learning_rate=0.02
    )
    (tmp_path / "checkpoints").mkdir()
    student = train(
        candidate,
        ["order", "refund"],
        texts,
        texts,
        on_progress=lambda at: None,
        checkpoint_dir=tmp_path / "checkpoints",
        seed=0,
    )
    assert student.tokenizer == folder / "tokenizer.json"
    assert student.module.get_submodule("rows.table").weight.shape == (len(WORDS), DIM)
    artefact = tmp_path / "artefact"
    artefact.mkdir()
    assert export(student, artefact, "s").agreement_with_torch == 1.0
    served = OnnxStudent(artefact)
    assert [served.predict_text(text.text)[0] for text in texts] == [text.label for text in texts]
    assert served.predict_text("My PARCEL")[0] == "order"  # its normaliser came with it


def test_what_is_no_such_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"model.safetensors: no safetensors .* name a folder that Model2Vec wrote"):
        model2vec_vectors(tmp_path)
    folder = written(tmp_path / "few")
    save_file({"embeddings": VECTORS[:4]}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="4 vectors and a token 10; take files of one model"):
        model2vec_vectors(folder)
    save_file({"vectors": VECTORS}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="no table `embeddings`"):
        model2vec_vectors(folder)
    save_file({"embeddings": VECTORS}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="not a usable tokenizer"):
        model2vec_vectors(folder)


def test_a_word_in_the_place_of_padding_is_refused(tmp_path) -> None:
    folder = written(tmp_path / "v", words=("where", "[UNK]", *WORDS[3:], "[PAD]"))
    with pytest.raises(ModelError, match="token 0 is 'where', which a text may hold"):
        model2vec_vectors(folder)


def test_other_vectors_are_another_run(tmp_path) -> None:
    from stillhouse.distill.training import _run_name

    texts = [LabelledText("where", "order")]
    names = []
    for place, scale in enumerate((1.0, 2.0)):
        folder = tmp_path / "v"
        if place == 0:
            written(folder)
        save_file({"embeddings": scale * VECTORS}, folder / "model.safetensors")
        candidate = StudentCandidate(architecture="static_embeddings", vectors=folder)
        names.append(_run_name(candidate, ["order", "refund"], texts, texts, 0))
    assert names[0] != names[1]
