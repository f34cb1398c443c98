"""Classifiers and cross-encoders behind vLLM's pooling runner, equal to transformers; and what goes wrong."""

from __future__ import annotations

import pytest
from aiohttp import web

from stillhouse.embedded.ports import free_port
from stillhouse.models.port import Model, ModelError
from stillhouse.models.vllm.lease import ReplicaLease
from stillhouse.models.vllm.pooling import PooledClassifier, PooledReranker
from stillhouse.models.vllm.posting import FAILURES
from stillhouse.models.vllm.spec import ServeSpec
from tests.integration.serving.conftest import processes_of, until
from tests.tiny_models import CORPUS, tiny_bert

LABELS = ("order", "refund", "other")
# transformers itself in float32 is 1e-5 off its float64: these large random weights carry a relative error of 1e-6 in
# one operation (vLLM's exponential on AVX-512 makes one) to as much as 1e-4 in a probability. Texts differ by 1e-2.
ROUNDING = 2e-4


@pytest.fixture
async def server():
    """Says `reply` to everything, and remembers what it was asked."""
    said: dict = {"reply": {"data": []}, "status": 200, "asked": [], "port": free_port()}

    async def handle(request: web.Request) -> web.Response:
        said["asked"].append((request.path, await request.json()))
        return web.json_response(said["reply"], status=said["status"])

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", said["port"]).start()
    said["url"] = lambda: f"http://127.0.0.1:{said['port']}/v1"
    yield said
    await runner.cleanup()


async def test_answers_are_in_the_order_of_the_questions(server) -> None:
    student = PooledClassifier("s-1", server["url"], LABELS)
    assert isinstance(student, Model)
    server["reply"] = {
        "data": [{"index": 1, "probs": [0.1, 0.2, 0.7]}, {"index": 0, "probs": [0.9995, 0.0003, 0.0002]}],
    }
    first, second = await student.predict(["a", "b"])
    assert server["asked"] == [("/classify", {"model": "s-1", "input": ["a", "b"]})]
    assert (first.output, first.confidence, first.distribution) == ("order", 0.9995, {"order": 0.9995})
    assert (second.output, second.confidence) == ("other", 0.7)
    assert await student.predict([]) == []
    await student.close()
    reranker = PooledReranker("s-1", server["url"])
    server["reply"] = {"data": [{"index": 1, "score": 0.25}, {"index": 0, "score": 0.75}]}
    assert await reranker.scores("q", ["a", "b"]) == [0.75, 0.25]
    assert server["asked"][-1] == ("/score", {"model": "s-1", "queries": "q", "documents": ["a", "b"]})
    await reranker.close()


async def test_what_is_no_answer_is_one_error(server) -> None:
    student, reranker = PooledClassifier("s-1", server["url"], LABELS), PooledReranker("s-1", server["url"])
    server["reply"] = {"data": [{"index": 0, "probs": [0.5, 0.5]}]}
    with pytest.raises(ModelError, match="gave 1 × 2 probabilities where 1 × 3 were asked for"):
        await student.predict(["a"])
    server["reply"] = {"data": [{"index": 0, "score": "nan"}]}
    with pytest.raises(ModelError, match="1 scores for 2 documents"):
        await reranker.scores("q", ["a", "b"])
    server["status"], server["reply"] = 400, {"error": {"message": "too long"}}
    for _ in range(2 * FAILURES):
        with pytest.raises(ModelError, match=r"status 400 \(too long\)"):
            await student.predict(["a"])
    server["status"], server["reply"] = 200, {"nothing": 1}
    for _ in range(FAILURES):
        with pytest.raises(ModelError, match="nothing usable"):
            await student.predict(["a"])
    with pytest.raises(ModelError, match="in a row"):
        await student.predict(["a"])
    with pytest.raises(ModelError, match="not ready"):
        await PooledClassifier("s-1", lambda: None, LABELS).predict(["a"])
    await student.close()
    await reranker.close()


@pytest.mark.slow
async def test_a_classifier_in_vllm_says_what_transformers_says(tmp_path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_bert(tmp_path / "bert", LABELS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval().double()
    with torch.no_grad():
        logits = model(**tokenizer(CORPUS, return_tensors="pt", padding=True)).logits
    wanted = logits.softmax(-1).tolist()
    assert max(map(max, wanted)) - min(map(max, wanted)) > 0.01, "texts are told apart"
    spec = ServeSpec("tiny-bert", max_model_len=128, runner="pooling")
    lease = ReplicaLease(folder, tmp_path, spec, linger_s=5)
    await lease.start()
    student = PooledClassifier("tiny-bert", lease.base_url, LABELS)
    try:
        await lease.ready(900)
        for said, probabilities in zip(await student.predict(CORPUS), wanted, strict=True):
            assert said.output == LABELS[probabilities.index(max(probabilities))]
            assert said.confidence == pytest.approx(max(probabilities), abs=ROUNDING)
        with pytest.raises(ModelError, match="status 400"):
            await student.predict(["order " * 500])
    finally:
        await student.close()
        await lease.release()
    until(lambda: not processes_of(tmp_path, "tiny-bert"), 40)
