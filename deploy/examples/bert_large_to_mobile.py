"""BERT-large to a phone: `python deploy/examples/bert_large_to_mobile.py [--small] [--out DIR]`.

The teacher has BERT-large's shape (24 layers, 1,024 wide): 334 million weights, 1.3 GB in 32 bits and about 340 MB in
8, which is the size that "the 340 MB model" speaks of. Its weights are random, since none can be downloaded here:
sizes, times and the way are real, its answers mean nothing; a random head's logits hardly depend on the text, so they
are standardised over the texts that teach, and answers differ. The agreement that is printed says how well a small
model imitates a random function, and not how good a student of a real BERT-large would be. With real weights, load them
into `teacher` and take the softmax of its logits as they are.

The student has TinyBERT-4's shape (4 layers, 312 wide; Jiao et al. 1909.10351), learns the teacher's soft answers
(Hinton et al. 1503.02531; `distill.direct` in the engine's own loop), and is exported as int8: for ONNX Runtime always,
for LiteRT (Android) where `stillhouse env make litert` was run. `--small`: a teacher of 4 layers of 128, in seconds.
The whole one takes 3 GB of memory and minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.distill.architecture.counting import EncoderShape, matrix_flops, parameters, weight_bytes
from stillhouse.distill.cut_encoder import MAX_TOKENS, encoder_source, padding_bias
from stillhouse.distill.export import export
from stillhouse.distill.outputs import Outputs
from stillhouse.distill.schemes.lesson import Lesson, direct
from stillhouse.distill.targets.exporting import export_for
from stillhouse.distill.targets.program import save_program
from stillhouse.distill.training import TrainedStudent, inputs_of
from stillhouse.environments.environment import exists
from stillhouse.models.features import TOKENIZER_FILE, Featuriser, StudentSpec, prepare
from stillhouse.models.student import OnnxStudent
from stillhouse.tasks import StudentCandidate

sys.path.insert(0, str(Path(__file__).parent))
from texts import made

LABELS = ("account", "order", "refund", "stock")
BERT_LARGE = EncoderShape(24, 1024, 4096, 16, labels=len(LABELS))
TINY_BERT = EncoderShape(4, 312, 1200, 12, labels=len(LABELS))
SMALL_TEACHER = EncoderShape(4, 128, 512, 4, labels=len(LABELS))
SMALL_STUDENT = EncoderShape(2, 64, 128, 2, labels=len(LABELS))


class Encoder(nn.Module):
    """A BERT of a shape, its mean pooling, and a linear head; weights are random."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.transformer = BertModel(
            BertConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.width,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=shape.ffn,
                max_position_embeddings=shape.positions,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                attn_implementation="eager",
            ),
            add_pooling_layer=False,
        )
        self.head = nn.Linear(shape.width, shape.labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 [B, labels] and pooled states [B, width] of ids and mask int64 [B, n]."""
        states = self.transformer.embeddings(input_ids)
        for layer in self.transformer.encoder.layer:
            states = layer(states, padding_bias(attention_mask))
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return self.head(pooled), pooled


def main() -> None:
    """Build, distil, export, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a small teacher: seconds")
    parser.add_argument("--out", type=Path, help="folder that keeps the student and its exports")
    given = parser.parse_args()
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        print(json.dumps(distil(given.small, given.out), indent=1))
        return
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(distil(given.small, Path(work)), indent=1))


def distil(small: bool, work: Path) -> dict[str, Any]:
    """The figures of one run; the student's artefact is `work/student`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    of_teacher, of_student = (SMALL_TEACHER, SMALL_STUDENT) if small else (BERT_LARGE, TINY_BERT)
    teacher, student = Encoder(of_teacher).eval(), Encoder(of_student)
    spec = StudentSpec("student", "cut_encoder", LABELS, "tokens", max_length=MAX_TOKENS)
    tokenizer = encoder_source() / TOKENIZER_FILE
    featuriser = Featuriser(spec, tokenizer)
    texts = [row.text for row in made(160 if small else 320, seed=0)]
    ids = [featuriser.ids(prepare(text)) for text in texts]
    logits, ms = _logits(teacher, ids)
    cut = len(ids) * 3 // 4
    soft = ((logits - logits[:cut].mean(dim=0)) / logits[:cut].std(dim=0)).softmax(dim=-1)
    hard = soft.argmax(dim=1)

    def says(module: nn.Module, places: Tensor) -> Outputs:
        logits, pooled = module(*inputs_of([ids[i] for i in places], tokens=True))
        return Outputs(logits=logits, embedding=pooled)

    lesson = Lesson(says, hard[:cut], soft[:cut], epochs=8, rate=1e-3, temperature=1.0, alpha=0.0)
    direct(student, lesson)
    student.eval()
    said, student_ms = _logits(student, ids)
    agreement = float((said[cut:].argmax(dim=1) == hard[cut:]).float().mean())

    folder = work / "student"
    folder.mkdir(exist_ok=True)
    trained = TrainedStudent(
        candidate=StudentCandidate(architecture="cut_encoder"),
        labels=LABELS,
        module=student,
        spec=spec,
        temperature=1.0,
        tokenizer=tokenizer,
        select_texts=tuple(texts[cut:]),
    )
    report = export(trained, folder, "student", confidence="max_probability")
    served = OnnxStudent(folder)
    took = []
    for text in texts[cut:]:
        begun = time.perf_counter()
        served.logits(text)
        took.append((time.perf_counter() - begun) * 1e3)
    save_program(trained, work / "student.pt2")
    figures: dict[str, Any] = {
        "teacher": {
            "parameters": parameters(of_teacher),
            "mb_fp32": weight_bytes(of_teacher, 32, 32) / 1e6,
            "mb_int8": weight_bytes(of_teacher, 8, 8) / 1e6,
            "mflop_of_32_tokens": matrix_flops(of_teacher, 32) / 1e6,
            "torch_ms": ms,
        },
        "student": {
            "parameters": parameters(of_student),
            "mb_int8_file": (folder / "model.onnx").stat().st_size / 1e6,
            "mflop_of_32_tokens": matrix_flops(of_student, 32) / 1e6,
            "torch_ms": student_ms,
            "int8_ms": float(np.median(took)),
            "int8_agreement_with_torch": report.agreement_with_torch,
        },
        "agreement_with_random_teacher": agreement,
        "commonest_answer_of_teacher": float(hard[cut:].bincount().max()) / (len(ids) - cut),
        "held_texts": len(ids) - cut,
        "teacher_weights": "random: its answers mean nothing",
    }
    if exists("litert"):
        phone = export_for("litert", folder, texts, work, program=work / "student.pt2", length=32)
        figures["litert"] = {
            "mb": phone.bytes / 1e6,
            "agreement_with_torch": phone.agreement_with_torch,
            "max_abs_logit_difference": phone.max_abs_logit_difference,
            "ms_here": phone.p50_ms,
            "not_verified": phone.not_verified,
        }
    else:
        figures["litert"] = "not run: make its environment with `stillhouse env make litert`"
    return figures


def _logits(model: nn.Module, ids: list[Any]) -> tuple[Tensor, float]:
    """Logits float32 [n, labels] of each text alone, and the median milliseconds of one."""
    found, took = [], []
    with torch.no_grad():
        for one in ids:
            begun = time.perf_counter()
            logits, _ = model(*inputs_of([one], tokens=True))
            took.append((time.perf_counter() - begun) * 1e3)
            found.append(logits[0])
    return torch.stack(found), float(np.median(took))


if __name__ == "__main__":
    main()
