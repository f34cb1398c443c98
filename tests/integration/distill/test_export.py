"""Every classifier from texts to the files that serve, and what ONNX Runtime answers from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from stillhouse.distill import cut_encoder, static_embeddings
from stillhouse.distill import export as exporting
from stillhouse.distill.assistant import FILE, sentence_vectors
from stillhouse.distill.cut_encoder import CutEncoder, encoder_source, kept_layers, load_transformer
from stillhouse.distill.export import Int8Rows, export
from stillhouse.distill.joint import train_joint, weigh
from stillhouse.distill.training import TrainedStudent, inputs_of, lower_states, predict, train
from stillhouse.distill.width_pruning import narrow
from stillhouse.models.artefact import publish, verify
from stillhouse.models.encoder import WIDTH
from stillhouse.models.features import (
    CENTROIDS_FILE,
    MODEL_FILE,
    SPEC_FILE,
    TOKENIZER_FILE,
    Featuriser,
    load_tokenizer,
    prepare,
)
from stillhouse.models.port import ModelError
from stillhouse.models.student import OnnxStudent
from stillhouse.tasks import StudentCandidate
from tests.unit.distill.toy import LABELS, texts

HASHED = StudentCandidate(architecture="hashed_ngrams", dim=16, epochs=6, batch_size=16)
CUT = StudentCandidate(architecture="cut_encoder", layers=2, epochs=2, batch_size=16, learning_rate=1e-3)
JOINT = StudentCandidate(architecture="joint", layers=2, dim=16, epochs=2, batch_size=16, learning_rate=1e-3)
STATIC = StudentCandidate(
    architecture="static_embeddings", dim=32, hidden=16, epochs=4, batch_size=16, learning_rate=1e-2, synthetic=1
)
CNN = StudentCandidate(architecture="text_cnn", dim=32, filters=16, hidden=0, epochs=4, batch_size=16)
NARROW = StudentCandidate(
    architecture="cut_encoder", layers=2, width=0.5, hidden=32, epochs=3, batch_size=16, learning_rate=1e-3
)
REAL_VOCABULARY = static_embeddings.encoded_vocabulary  # before a fixture puts a quick one in its place
ODD = ["", "?", "word " * 3000, "日本語 ünïcode \u0000 <email>", "write to me@example.org"]


class Killed(Exception):
    """Stands for the process being killed."""


@pytest.fixture(scope="module")
def hashed(tmp_path_factory) -> TrainedStudent:
    return learn(HASHED, tmp_path_factory.mktemp("hashed"))


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> TrainedStudent:
    return learn(CUT, tmp_path_factory.mktemp("cut"))


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> TrainedStudent:
    return learn(JOINT, tmp_path_factory.mktemp("joint"))


@pytest.fixture(scope="module")
def quick_vocabulary() -> Iterator[None]:
    """Every token's own input vector: sending the whole vocabulary through the encoder takes 40 s."""
    with pytest.MonkeyPatch.context() as patch:
        table = load_transformer().embeddings.word_embeddings.weight.detach()
        patch.setattr(static_embeddings, "encoded_vocabulary", lambda: table)
        yield


@pytest.fixture(scope="module")
def static(quick_vocabulary, tmp_path_factory) -> TrainedStudent:
    folder = tmp_path_factory.mktemp("static")
    trained = learn(STATIC, folder)
    assert (folder / FILE).exists()
    return trained


@pytest.fixture(scope="module")
def cnn(quick_vocabulary, tmp_path_factory) -> TrainedStudent:
    return learn(CNN, tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="module")
def narrowed(tmp_path_factory) -> TrainedStudent:
    return learn(NARROW, tmp_path_factory.mktemp("narrow"))


def learn(candidate, folder, kill_after=None) -> TrainedStudent:
    def on_progress(progress) -> None:
        if progress.epoch == kill_after:
            raise Killed

    how = train_joint if candidate.architecture == "joint" else train
    return how(candidate, LABELS, texts(160), texts(60, seed=1), on_progress=on_progress, checkpoint_dir=folder, seed=0)


@pytest.mark.parametrize(
    ("architecture", "inputs", "files", "most_bytes"),
    [
        ("hashed", {"features"}, {MODEL_FILE, SPEC_FILE}, 1e6),
        ("static", {"features"}, {MODEL_FILE, SPEC_FILE, TOKENIZER_FILE}, 3e6),
        ("cnn", {"features"}, {MODEL_FILE, SPEC_FILE, TOKENIZER_FILE}, 3e6),
        ("cut", {"input_ids", "attention_mask"}, {MODEL_FILE, SPEC_FILE, TOKENIZER_FILE, CENTROIDS_FILE}, 20e6),
        ("narrowed", {"input_ids", "attention_mask"}, {MODEL_FILE, SPEC_FILE, TOKENIZER_FILE, CENTROIDS_FILE}, 17e6),
        (
            "joint",
            {"features", "input_ids", "attention_mask"},
            {MODEL_FILE, SPEC_FILE, TOKENIZER_FILE, CENTROIDS_FILE},
            25e6,
        ),
    ],
)
def test_the_files_answer_as_the_trained_module_does(
    request, tmp_path, architecture, inputs, files, most_bytes
) -> None:
    trained: TrainedStudent = request.getfixturevalue(architecture)
    staging = tmp_path / "staging"
    staging.mkdir()
    report = export(trained, staging, "intents-1")
    assert {path.name for path in staging.iterdir()} == files
    assert report.n_compared == 60
    assert report.agreement_with_torch >= 0.97
    assert report.table_bits == 8
    assert report.bytes == sum(path.stat().st_size for path in staging.iterdir()) < most_bytes

    graph = onnx.load(str(staging / MODEL_FILE)).graph
    types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
    shapes = {name: [dim.dim_value or dim.dim_param for dim in kind.shape.dim] for name, kind in types.items()}
    assert shapes.pop("logits") == [1, len(LABELS)]
    assert types.pop("logits").elem_type == onnx.TensorProto.FLOAT
    if architecture not in ("hashed", "static", "cnn"):
        assert types.pop("pooled").elem_type == onnx.TensorProto.FLOAT
        assert shapes.pop("pooled") == [1, WIDTH]
    assert types.keys() == inputs
    assert all(kind.elem_type == onnx.TensorProto.INT64 for kind in types.values())
    assert all(batch == 1 and isinstance(length, str) for batch, length in shapes.values())

    student = OnnxStudent(verify(publish(staging, tmp_path / "intents-1")))
    assert student.student_id == "intents-1"
    assert student.spec.temperature == trained.temperature
    right = [student.predict_text(text.text)[0] == text.label for text in texts(100, seed=2)]
    assert np.mean(right) > 0.9
    for text in ODD:
        label, confidence, _ = student.predict_text(text)
        assert label in LABELS
        assert 0 < confidence <= 1


def test_every_token_goes_through_the_encoder_alone(monkeypatch) -> None:
    transformer = load_transformer().eval()
    monkeypatch.setattr(transformer.config, "vocab_size", 1100)
    monkeypatch.setattr(cut_encoder, "load_transformer", lambda: transformer)
    found = REAL_VOCABULARY.__wrapped__()
    assert found.shape == (1100, WIDTH)
    for token in (5, 1037, 1099):
        ids = torch.tensor([[101, token, 102]])
        with torch.no_grad():
            alone = transformer(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(dim=0)
        assert torch.allclose(found[token], alone, atol=1e-4)
    assert tuple(load_tokenizer(encoder_source() / TOKENIZER_FILE, 8).encode("").ids) == (101, 102)


def test_a_killed_static_run_ends_as_if_it_had_not_been(static, tmp_path) -> None:
    with pytest.raises(Killed):
        learn(STATIC, tmp_path, kill_after=2)
    made = (tmp_path / FILE).stat().st_mtime_ns
    resumed = learn(STATIC, tmp_path)
    assert (tmp_path / FILE).stat().st_mtime_ns == made  # made once
    one, two = static.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_narrow_encoder_says_nearly_what_the_whole_one_says() -> None:
    of = sentence_vectors([text.text for text in texts(8)])
    assert of.shape == (8, WIDTH)
    seen = [text.text for text in texts(200, seed=7)]
    tokenizer = load_tokenizer(encoder_source() / TOKENIZER_FILE, 128)
    ids = [np.array(tokenizer.encode(text).ids) for text in seen]
    whole, narrow_one = CutEncoder(2, 3).eval(), CutEncoder(2, 3).eval()
    narrow(narrow_one, ids[:150], 0.5)
    layer = narrow_one.transformer.encoder.layer[0]
    assert layer.attention.self.query.out_features == WIDTH // 2
    assert layer.intermediate.dense.out_features == 1536 // 2
    held = inputs_of(ids[150:], tokens=True)
    with torch.no_grad():
        cosine = torch.nn.functional.cosine_similarity(whole(*held)[1], narrow_one(*held)[1])
    assert cosine.min() > 0.9


def test_less_is_quantised_where_int8_changes_answers(hashed, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporting, "Int8Rows", lambda table: Int8Rows(torch.flip(table, [0])))  # a ruined table
    report = export(hashed, tmp_path, "intents-1")
    assert report.table_bits == 32
    assert report.agreement_with_torch >= 0.97


def test_a_graph_that_answers_something_else_is_refused(hashed, tmp_path, monkeypatch) -> None:
    answered = exporting._logits
    monkeypatch.setattr(exporting, "_logits", lambda *of: -answered(*of))
    with pytest.raises(ModelError, match="intents-1: the exported graph gives"):
        export(hashed, tmp_path, "intents-1")


def test_a_table_of_int8_is_close_and_keeps_zeros() -> None:
    torch.manual_seed(0)
    table = torch.randn(50, 8) * torch.logspace(-3, 3, 50).unsqueeze(1)
    table[0] = 0
    rows = torch.arange(50).unsqueeze(0)
    difference = (Int8Rows(table)(rows)[0] - table).abs()
    assert (difference <= table.abs().amax(dim=1, keepdim=True) / 250).all()
    assert not Int8Rows(table)(rows)[0, 0].any()


def test_a_killed_encoder_run_ends_as_if_it_had_not_been(cut, tmp_path) -> None:
    with pytest.raises(Killed):
        learn(CUT, tmp_path, kill_after=1)
    resumed = learn(CUT, tmp_path)
    one, two = cut.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert cut.temperature == resumed.temperature


def test_padding_does_not_change_an_encoder_s_answer(cut) -> None:
    featuriser = Featuriser(cut.spec, cut.tokenizer)
    short, long = (featuriser.ids(prepare(text)) for text in ("refund", "refund " * 20))
    alone, together = predict(cut.module, [short], True), predict(cut.module, [short, long], True)
    assert alone[0] == pytest.approx(together[0], abs=1e-4)


def test_more_layers_than_the_encoder_has_are_refused() -> None:
    assert kept_layers(6, 3) == (0, 1, 2)
    with pytest.raises(ModelError, match="6 layers"):
        kept_layers(6, 7)


@pytest.mark.parametrize(("architecture", "signals"), [("hashed", 3), ("cut", 5), ("joint", 5)])
def test_the_learned_confidence_is_in_the_artefact_and_the_same_wherever_it_is_loaded(
    request, tmp_path, architecture, signals
) -> None:
    trained: TrainedStudent = request.getfixturevalue(architecture)
    # A teacher that is not sure: a fifth of its answers nobody could guess.
    held = [replace(text, label=LABELS[i % 3]) if i % 5 == 0 else text for i, text in enumerate(texts(150, seed=3))]
    folders = [tmp_path / name for name in ("one", "two", "plain", "margin")]
    for folder, kind in zip(folders, ("learned", "learned", "max_probability", "margin"), strict=True):
        folder.mkdir()
        export(replace(trained, held=tuple(held)), folder, "intents-1", kind)
    one, two, plain, margin = (OnnxStudent(folder) for folder in folders)
    assert one.spec == two.spec
    assert (one.spec.confidence.kind, len(one.spec.confidence.weights)) == ("learned", signals)
    assert (plain.spec.confidence.kind, margin.spec.confidence.kind) == ("max_probability", "margin")
    for text in [text.text for text in held[:20]] + ODD:
        said = one.predict_text(text)
        assert said == two.predict_text(text)
        assert 0.0 <= said[1] <= 1.0
        shares = sorted(plain.predict_text(text)[2].values(), reverse=True)
        assert said[0] == plain.predict_text(text)[0]
        assert plain.predict_text(text)[1] == shares[0]
        assert margin.predict_text(text)[1] == pytest.approx(
            shares[0] - (shares[1] if len(shares) > 1 else 0), abs=1e-3
        )


def test_with_too_few_held_texts_the_largest_probability_stays_the_confidence(hashed, tmp_path) -> None:
    assert hashed.held == ()  # 60 texts to choose on: none was held back
    export(hashed, tmp_path, "intents-1", "learned")
    assert OnnxStudent(tmp_path).spec.confidence.kind == "max_probability"


def test_a_confidence_that_does_not_fit_the_graph_is_refused(cut, tmp_path) -> None:
    held = [replace(text, label=LABELS[i % 3]) if i % 5 == 0 else text for i, text in enumerate(texts(150, seed=3))]
    export(replace(cut, held=tuple(held)), tmp_path, "intents-1", "learned")
    (tmp_path / CENTROIDS_FILE).unlink()
    with pytest.raises(ModelError, match="does not fit"):
        OnnxStudent(tmp_path)


def test_what_never_changes_in_an_encoder_is_computed_once_and_gives_the_same(cut) -> None:
    featuriser = Featuriser(cut.spec, cut.tokenizer)
    ids = [featuriser.ids(prepare(text.text)) for text in texts(40, seed=4)]
    at_once = predict(cut.module, ids, True)
    assert np.allclose(at_once, predict(cut.module, lower_states(cut.module, ids), True), atol=1e-4)
    assert cut.centroids.shape == (len(LABELS), WIDTH)
    assert np.allclose(np.linalg.norm(cut.centroids, axis=1), 1)


def test_parts_are_weighed_by_what_they_are_worth() -> None:
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 3, 400)
    signal, noise = np.eye(3)[answers], rng.normal(size=(3, 400, 3))
    logits = np.stack([signal * 2 + noise[0], noise[1], signal + noise[2]])
    weights = weigh(logits.astype(np.float32), answers)
    assert weights[0] > weights[2] > weights[1]
    assert weights[1] < 0.15
    right = [(part.argmax(axis=1) == answers).mean() for part in (*logits, np.tensordot(weights, logits, axes=1))]
    assert right[3] > max(right[:3])


def test_a_killed_joint_run_goes_on_where_it_was(joint, tmp_path) -> None:
    parts = []

    def stop(progress) -> None:
        parts.append(progress.epoch)
        if parts.count(1) == 2:  # the first epoch of the second part
            raise Killed

    with pytest.raises(Killed):
        train_joint(JOINT, LABELS, texts(160), texts(60, seed=1), on_progress=stop, checkpoint_dir=tmp_path, seed=0)
    said = []
    again = train_joint(
        JOINT, LABELS, texts(160), texts(60, seed=1), on_progress=said.append, checkpoint_dir=tmp_path, seed=0
    )
    assert [progress.epoch for progress in said] == [2]
    one, two = joint.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
