"""Rerankers through ONNX Runtime, in a worker process, and behind an API."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stillhouse.models import rerank_teacher
from stillhouse.models.artefact import folder_of
from stillhouse.models.confidence import Confidence
from stillhouse.models.port import ModelError
from stillhouse.models.rerank_request import RerankRequest
from stillhouse.models.rerank_student import SPEC_FILE, OnnxReranker
from stillhouse.models.rerank_teacher import EndpointTeacher
from stillhouse.models.worker_model import WorkerModel
from stillhouse.tasks import RerankEndpoint
from tests.integration.rerankers import write_reranker

DOCUMENTS = ("good", "bad text", "fine apple. poor")
ASKED = RerankRequest(query="apple", documents=DOCUMENTS).as_input()


def test_scores_are_the_graphs_and_the_answer_is_their_order(tmp_path) -> None:
    model = OnnxReranker(folder_of(write_reranker(tmp_path)))
    assert model.scores("apple", DOCUMENTS).tolist() == [3.0, -3.0, 0.0]
    output, confidence, distribution, tokens = model.predict_counted(ASKED)
    assert output == "[0,2,1]"
    assert confidence == pytest.approx(0.95, abs=0.01), "the largest of the softmax"
    assert list(distribution) == ["0", "2", "1"]
    assert tokens == 15 + sum(len(text.replace(".", " .").split()) for text in DOCUMENTS)
    assert model.predict_text(RerankRequest(query="q", documents=("bad",)).as_input())[:2] == ("[0]", 1.0)


def test_weights_of_words_and_learned_confidence_are_read_from_the_artefact(tmp_path) -> None:
    learned = Confidence("learned", (0.0, 1.0, 0.0, 0.0, 0.0), (0.0,) * 5, (1.0,) * 5, -3.0)
    folder = folder_of(write_reranker(tmp_path, confidence=learned))
    assert OnnxReranker(folder).predict_text(ASKED)[1] == pytest.approx(0.5), "its best leads by 3"
    spec = json.loads((folder / SPEC_FILE).read_text())
    (folder / SPEC_FILE).write_text(json.dumps(spec | {"weights": [0.0, 10.0] + [0.0] * 8}))
    assert OnnxReranker(folder).scores("apple", DOCUMENTS).tolist() == pytest.approx([3.0, -3.0, 10.0])


@pytest.mark.parametrize(
    "change", [{"architecture": "magic"}, {"weights": [1.0]}, {"confidence": {"kind": "learned"}}, {"max_tokens": "x"}]
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, change) -> None:
    folder = folder_of(write_reranker(tmp_path))
    spec = json.loads((folder / SPEC_FILE).read_text())
    (folder / SPEC_FILE).write_text(json.dumps(spec | change))
    with pytest.raises(ModelError, match="train"):
        OnnxReranker(folder)


def test_an_input_that_is_no_list_is_refused_in_a_sentence(tmp_path) -> None:
    with pytest.raises(ModelError, match="ranks-1: the input is no request to rank documents"):
        OnnxReranker(folder_of(write_reranker(tmp_path))).predict_text("hello")


async def test_a_student_answers_in_its_worker_as_in_this_process(tmp_path) -> None:
    ref = write_reranker(tmp_path)
    model = WorkerModel.student(ref, "ranks-1", 3600.0)
    await model.start()
    try:
        [said] = await model.predict([ASKED])
        with pytest.raises(ModelError, match="no request to rank"):
            await model.predict(["hello"])
    finally:
        await model.close()
    output, confidence, distribution, tokens = OnnxReranker(folder_of(ref)).predict_counted(ASKED)
    assert (said.output, said.confidence, said.distribution, said.input_tokens) == (
        output,
        confidence,
        distribution,
        tokens,
    )
    assert said.cost_usd == pytest.approx(said.cpu_ms / 1000), "a dollar a second"


class Api:
    """An API that answers what the test wants, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.replies: list[web.Response] = []
        app = web.Application()
        app.router.add_post("/v1/rerank", self._rank)
        self.server = TestServer(app)

    async def _rank(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        if self.replies:
            return self.replies.pop(0)
        scores = [0.2, 0.9, 0.5]
        order = sorted(range(3), key=lambda place: -scores[place])
        return web.json_response({"results": [{"index": i, "relevance_score": scores[i]} for i in order]})

    def teacher(self, **changes) -> EndpointTeacher:
        url = str(self.server.make_url("/v1/rerank"))
        fields = {"kind": "rerank_endpoint", "url": url, "model": "big", "usd_per_call": 0.002} | changes
        return EndpointTeacher(RerankEndpoint.model_validate(fields))


@pytest.fixture
async def api(monkeypatch):
    monkeypatch.setattr(rerank_teacher, "FIRST_PAUSE_S", 0.0)
    found = Api()
    await found.server.start_server()
    yield found
    await found.server.close()


async def test_an_endpoint_is_asked_for_all_documents_and_its_scores_make_the_ranking(api, monkeypatch) -> None:
    monkeypatch.setenv("RANK_KEY", "secret")
    teacher = api.teacher(api_key_env="RANK_KEY")
    api.replies = [web.Response(status=503), web.Response(status=429)]
    [said] = await teacher.predict([ASKED])
    await teacher.close()
    assert (said.output, said.cost_usd, said.confidence) == ("[1,2,0]", 0.002, 1.0)
    assert said.distribution == pytest.approx({"1": 0.9, "2": 0.5, "0": 0.2})
    assert api.asked[-1] == {"model": "big", "query": "apple", "documents": list(DOCUMENTS), "top_n": 3}
    assert api.keys == ["Bearer secret"] * 3


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (web.Response(status=401), "answered with status 401"),
        (web.Response(text="hello"), "answered with no JSON"),
        (web.json_response({"data": []}), "no results"),
        (web.json_response({"results": [{"index": 0, "relevance_score": 1.0}]}), "scored 1 of 3 documents"),
    ],
)
async def test_what_an_endpoint_gets_wrong_is_one_sentence(api, reply, says) -> None:
    teacher = api.teacher()
    api.replies = [reply]
    with pytest.raises(ModelError, match=says):
        await teacher.predict([ASKED])
    await teacher.close()


async def test_an_endpoint_that_stays_away_and_a_key_that_is_missing(api, monkeypatch) -> None:
    teacher = api.teacher()
    api.replies = [web.Response(status=503) for _ in range(3)]
    with pytest.raises(ModelError, match="answered with status 503, 3 times"):
        await teacher.predict([ASKED])
    await teacher.close()
    monkeypatch.delenv("RANK_KEY", raising=False)
    with pytest.raises(ModelError, match="set RANK_KEY"):
        await api.teacher(api_key_env="RANK_KEY").predict([ASKED])
