"""Fine-tuning of a language model: what is learned, and that a stopped run ends as a whole one."""

from __future__ import annotations

import json
import random
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from stillhouse.distill.causal_lm.base import check_checkpoint, load_model, load_tokenizer
from stillhouse.distill.causal_lm.examples import WrittenText, encode, without_marks
from stillhouse.distill.causal_lm.packing import batch_of, pack
from stillhouse.distill.causal_lm.sft import _summed_loss, tune
from stillhouse.models.chat.marks import control_tokens
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.port import ModelError
from stillhouse.tasks import LanguageModel
from tests.tiny_models import tiny_causal_lm

COLOURS = ("red", "blue", "green")


def texts(n: int) -> list[WrittenText]:
    rng = random.Random(0)
    found = []
    for _ in range(n):
        colour, thing = rng.choice(COLOURS), rng.choice(("door", "wall", "shop"))
        asked = f"{rng.choice(('please paint', 'make', 'turn'))} the {thing} {colour}"
        answer = json.dumps({"thing": thing, "colour": colour})
        found.append(WrittenText(ChatRequest.of("text", asked), answer))
    return found


def candidate(base: Path, **changes: object) -> LanguageModel:
    fields = {"architecture": "causal_lm", "base": str(base), "batch_size": 1024, "step_tokens": 512, "epochs": 1.0}
    return LanguageModel.model_validate(fields | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_causal_lm(tmp_path_factory.mktemp("base") / "tiny")


def run(base: Path, folder: Path, data: list[WrittenText], **changes: object):
    folder.mkdir(exist_ok=True)
    seen: list[object] = []
    return tune(
        candidate(base, **changes), base, data[:-20], data[-20:], on_progress=seen.append, checkpoint_dir=folder
    ), seen


def test_rows_hold_everything_once_and_nothing_too_long() -> None:
    lengths = [30, 200, 90, 256, 10, 120, 60]
    rows = pack(lengths, 256)
    assert sorted(i for row in rows for i in row) == list(range(7))
    assert all(sum(lengths[i] for i in row) <= 256 for row in rows)
    with pytest.raises(ValueError, match="does not fit"):
        pack([300], 256)


def test_a_packed_example_gives_what_it_gives_alone(base) -> None:
    tokenizer = load_tokenizer(base)
    model = load_model(base, tokenizer).eval()
    encoded, _ = encode(tokenizer, texts(5), 200)
    with torch.no_grad():
        alone = sum(float(_summed_loss(model, batch_of([[example]], 0))) for example in encoded)
        packed = float(_summed_loss(model, batch_of([encoded[:3], encoded[3:]], 0)))
        labels = [torch.tensor([[-100] * e.answer_at + e.ids[e.answer_at :].tolist()]) for e in encoded]
        theirs = sum(
            float(model(input_ids=torch.tensor([e.ids.tolist()]), labels=label).loss) * (len(e) - e.answer_at)
            for e, label in zip(encoded, labels, strict=True)
        )
    assert packed == pytest.approx(alone, rel=1e-5)
    assert alone == pytest.approx(theirs, rel=1e-5)


def test_only_the_answer_is_learned_and_it_ends(base) -> None:
    tokenizer = load_tokenizer(base)
    [one], too_long = encode(tokenizer, texts(1), 200)
    assert tokenizer.decode(one.ids[one.answer_at :]) == texts(1)[0].answer + tokenizer.eos_token
    assert one.ids[-1] == tokenizer.eos_token_id
    assert too_long == 0
    assert encode(tokenizer, texts(1), 20) == ([], 1)


def test_a_text_that_writes_a_mark_of_the_template_does_not_teach(base) -> None:
    tokenizer = load_tokenizer(base)
    mark = tokenizer.eos_token
    asks = WrittenText(ChatRequest.of("text", f"paint the door{mark}red"), "{}")
    says = WrittenText(ChatRequest.of("text", "paint the door red"), f"done{mark}and more")
    plain = texts(3)
    assert without_marks(control_tokens(base), [plain[0], asks, *plain[1:], says]) == (plain, 2)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_learns(base, tmp_path, method) -> None:
    tuned, seen = run(base, tmp_path / "run", texts(300), method=method, epochs=4.0, learning_rate=3e-3, rank=32)
    assert seen[-1].select_loss < 0.5 * seen[0].select_loss
    assert seen[-1].fraction == 1.0
    assert tuned.packing_share > 0.8
    tuned.model.save_pretrained(str(tmp_path / "merged"))
    again = AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged"))
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(again(ids).logits, tuned.model(ids).logits, atol=1e-5)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(base, tmp_path) -> None:
    data = texts(120)
    whole, _ = run(base, tmp_path / "whole", data)
    (tmp_path / "stopped").mkdir()

    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        if progress.fraction >= 0.5:
            raise Stop

    with pytest.raises(Stop):
        tune(candidate(base), base, data[:-20], data[-20:], on_progress=stop, checkpoint_dir=tmp_path / "stopped")
    resumed, seen = run(base, tmp_path / "stopped", data)
    assert len(seen) == 2
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_disk_that_is_full_costs_one_part_of_the_run(base, tmp_path) -> None:
    data = texts(120)
    whole, _ = run(base, tmp_path / "whole", data)
    folder = tmp_path / "full"
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # from the first checkpoint on nothing more fits

    try:
        with pytest.raises(OSError, match=r"epoch-0002.*cannot be written.*File too large"):
            tune(candidate(base), base, data[:-20], data[-20:], on_progress=fill, checkpoint_dir=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-0001.safetensors", "state.json"]
    resumed, seen = run(base, folder, data)
    assert len(seen) == 3
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_smaller_batch_learns_the_same(base, tmp_path) -> None:
    data = texts(120)
    one, _ = run(base, tmp_path / "one", data)
    other, _ = run(base, tmp_path / "other", data, batch_size=256)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert np.allclose(a.detach(), b.detach(), atol=1e-4)


def test_pickled_files_and_what_is_no_checkpoint_are_refused(base, tmp_path) -> None:
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    check_checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match="pickled"):
        check_checkpoint(folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        check_checkpoint(folder)


def test_a_tokenizer_of_another_model_is_refused(base) -> None:
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens([f"<extra{n}>" for n in range(500)])
    with pytest.raises(ModelError, match="not of one"):
        load_model(base, tokenizer)


def test_a_template_that_rewrites_the_question_is_refused(base) -> None:
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match="chat template"):
        encode(tokenizer, texts(1), 200)
