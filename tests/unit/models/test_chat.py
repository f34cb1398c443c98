"""Chat requests and completions: what is asked travels whole, and comes back as what it was."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.models.chat.completion import Completion
from stillhouse.models.chat.recorded import RecordedTeacher
from stillhouse.models.chat.request import ChatRequest, FunctionCall, Message, ToolCall
from stillhouse.models.port import ModelError

TEXTS = st.text(min_size=1, max_size=60).filter(lambda text: "\ud800" not in text)


@given(TEXTS)
def test_one_text_travels_as_itself_whatever_it_looks_like(text: str) -> None:
    asked = ChatRequest(messages=(Message(role="user", content=text),))
    assert asked.as_input() == ("text", text)
    assert ChatRequest.of("text", text) == asked


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), min_size=1, max_size=4),
    st.one_of(st.none(), st.floats(0, 2)),
    st.one_of(st.none(), st.integers(1, 4000)),
)
def test_whatever_is_asked_arrives(messages, temperature, most) -> None:
    asked = ChatRequest(
        messages=tuple(Message(role=role, content=text) for role, text in messages),
        temperature=temperature,
        max_tokens=most,
    )
    kind, text = asked.as_input()
    assert ChatRequest.of(kind, text) == asked
    assert asked.as_input() == (kind, text), "the same request is the same input"


def test_the_question_is_the_last_users() -> None:
    said = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    assert ChatRequest(messages=tuple(Message(role=r, content=t) for r, t in said)).question == "three"  # type: ignore[arg-type]
    assert ChatRequest(messages=(Message(role="system", content="x"),)).question == ""


@pytest.mark.parametrize(
    "text", ["", "{}", '{"messages": []}', '{"messages": [{"role": "user", "content": 3}]}', "hello"]
)
def test_what_is_no_request_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="the input is no chat completion request") as refused:
        ChatRequest.of("chat", text)
    assert "\n" not in str(refused.value)


def test_an_answer_that_calls_tools_comes_back_as_one() -> None:
    calls = (ToolCall(id="1", function=FunctionCall(name="a", arguments="{}")),)
    output = Completion("well", calls, "tool_calls").as_output()
    again = Completion.of(output, "tool_calls")
    assert (again.content, again.tool_calls[0].function.name, again.finish_reason) == ("well", "a", "tool_calls")
    # A text that looks like that is a text.
    assert Completion.of(output, "stop").content == output
    assert Completion.of("cut", "length").finish_reason == "length"


async def test_a_recording_answers_the_question_spaces_and_case_aside(tmp_path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = [
        {"input": "Hello  there", "output": "one"},
        {"input": "hello there", "output": "two"},
        {"text": "x", "teacher": "y"},
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    teacher = RecordedTeacher(path, 0.5)
    assert len(teacher) == 2
    said = await teacher.complete(ChatRequest.of("text", "HELLO there "))
    assert (said.content, said.cost_usd, said.input_tokens > 0) == ("one", 0.5, True)
    with pytest.raises(ModelError, match="replays a file"):
        await teacher.complete(ChatRequest.of("text", "unheard of"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no recorded answers"),
        ("[1]", "not a JSON object"),
        ("{", "cannot be read"),
        ('{"input": "a"}', "needs `input` and `output`"),
    ],
)
def test_a_file_that_is_no_recording_is_one_sentence(tmp_path, text, said) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(ModelError, match=said):
        RecordedTeacher(path, 0.0)


def test_every_text_of_a_request_can_be_changed_and_nothing_else_is() -> None:
    asked = ChatRequest.model_validate(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"x": "c"}'}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": "d"},
            ],
            "seed": 4111111111111111,
        }
    )
    upper = asked.with_texts(str.upper)
    assert [message.text for message in upper.messages] == ["AB", "", "D"]
    assert upper.messages[1].tool_calls[0].function.arguments == '{"X": "C"}'
    assert (upper.seed, upper.messages[1].tool_calls[0].id) == (4111111111111111, "1")
    assert asked.with_texts(str) == asked
