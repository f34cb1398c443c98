"""A student that writes as routers, gates and training ask it: its replica, its confidence, its cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from stillhouse.models.causal_lm import CausalLmSpec
from stillhouse.models.chat.completion import Completion, OnText
from stillhouse.models.chat.marks import control_tokens, imitated
from stillhouse.models.chat.request import ChatRequest
from stillhouse.models.confidence import SAMPLES, TEMPERATURE
from stillhouse.models.port import ModelError
from stillhouse.models.vllm.lease import ReplicaLease
from stillhouse.models.vllm.remote import RemoteServer
from stillhouse.models.vllm.spec import Dtype, ServeSpec
from stillhouse.models.vllm.student import VllmStudent
from stillhouse.store.redaction import redact

START_S: Final = 900.0
SEQUENCES: Final = 16  # answers that a replica writes at once
DRAIN_S: Final = 60.0  # for answers that are being written when a student is let go


class ServedStudent:
    """The student of one verified artefact. What it is asked is redacted as what it learned from was."""

    def __init__(
        self,
        folder: Path,
        home: Path,
        *,
        usd_per_cpu_hour: float = 0.0,
        url: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """`url`: a vLLM server somewhere, `{student}` in it stands for the id; None: a replica on this machine.

        Raises `ModelError` where the folder is no student that writes.
        """
        self.spec = CausalLmSpec.read(folder)
        self._usd_per_cpu_s = usd_per_cpu_hour / 3600
        self._control = control_tokens(folder)
        self._server: ReplicaLease | RemoteServer = (
            ReplicaLease(folder, home, _serve(self.spec))
            if url is None
            else RemoteServer(url.replace("{student}", self.spec.student_id), self.spec.student_id, folder)
        )
        self._student = VllmStudent(
            self.spec.student_id,
            self.base_url,
            max_tokens=self.spec.max_new_tokens,
            response_schema=self.spec.response_schema,
            concurrency=SEQUENCES,
            timeout_s=timeout_s,
        )

    @property
    def version(self) -> str:
        """The student's id."""
        return self.spec.student_id

    def base_url(self) -> str | None:
        """Where it answers; None while it does not."""
        return self._server.base_url()

    async def start(self) -> None:
        """Join its replica or have one started; comes back before it answers. Raises `ModelError`."""
        await self._server.start()

    async def ready(self, timeout_s: float = START_S) -> None:
        """Wait until it answers as it did when it was measured. Raises `ModelError`."""
        await self._server.ready(timeout_s)

    async def complete(self, request: ChatRequest, on_text: OnText | None = None) -> Completion:
        """Its answer with its confidence. Raises `ModelError`: then the teacher is asked."""
        if request.tools:
            raise ModelError(f"the student {self.version} calls no tools; the teacher does.")
        if (control := imitated(self._control, [message.text for message in request.messages])) is not None:
            raise ModelError(
                f"the text holds {control}, which the student {self.version} would read as a mark of its own; "
                "the teacher answers."
            )
        marks: set[str] = set()

        def without(text: str) -> str:
            found = redact(text)
            marks.update(found.marks)
            return found.text

        asked = self._with_prompt(request.with_texts(without))
        if self.spec.confidence.kind == "self_consistency":
            said, samples = await asyncio.gather(
                self._student.complete(asked, on_text), self._student.sample(asked, SAMPLES, TEMPERATURE)
            )
            confidence = self.spec.confidence.of_samples(said.content or "", samples, said.log_probs)
            written = said.output_tokens * (1 + SAMPLES)  # about: the samples' own lengths are near it
        else:
            said = await self._student.complete(asked, on_text)
            confidence = self.spec.confidence.of_written(said.log_probs, said.margins)
            written = said.output_tokens
        if any(f"<{mark}>" in (said.content or "") for mark in marks):
            confidence = 0.0  # it was not shown what belongs there
        # Of a batch nobody can say whose work it was: each token has the mean that was measured at training's end.
        cpu_s = (said.input_tokens + written) * self.spec.cpu_s_per_token
        return replace(said, confidence=confidence, cpu_ms=1000 * cpu_s, cost_usd=cpu_s * self._usd_per_cpu_s)

    def cpu_seconds(self) -> float:
        """Of its replica on this machine since that began; 0 for one behind a URL."""
        return self._server.cpu_seconds()

    def memory_bytes(self) -> int:
        """Peak of its replica on this machine; 0 for one behind a URL."""
        return self._server.memory_bytes()

    async def close(self, drain_s: float = 0.0) -> None:
        """Let go of connections and of the replica, which ends where nobody else holds it.

        What is being written may take `drain_s` seconds more.
        """
        await self._student.close(drain_s)
        await self._server.release()

    def recordable(self, request: ChatRequest) -> dict[str, object]:
        """The body that asks this student `request`, without the name of a model; for `vllm.recorded`."""
        asked = self._student.asked(self._with_prompt(request))
        return {key: value for key, value in asked.items() if key not in ("model", "logprobs", "top_logprobs")}

    def _with_prompt(self, request: ChatRequest) -> ChatRequest:
        return request.with_examples(self.spec.examples).with_instruction(self.spec.instruction)


def _serve(spec: CausalLmSpec) -> ServeSpec:
    return ServeSpec(
        spec.student_id,
        dtype=cast(Dtype, spec.dtype),
        quantization=spec.quantization,
        max_model_len=spec.max_model_len,
        max_num_seqs=SEQUENCES,
    )
