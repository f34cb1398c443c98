"""The decorator leaves calls as they are, and its queue is bounded and quiet."""

from __future__ import annotations

import logging

import pytest

from stillhouse import observing
from stillhouse.client import Client


@pytest.fixture
def client() -> Client:
    """One that was not entered: what is observed waits."""
    return Client()


def waiting(client: Client) -> list[tuple[str, str | None]]:
    return [(event.input, event.output) for event in client._observations._waiting]


async def test_results_and_exceptions_are_the_functions_own(client) -> None:
    @client.observe(task="intents")
    def ask(text: str, *, fail: bool = False) -> str:
        if fail:
            raise LookupError(text)
        return text.upper()

    @client.observe(task="intents")
    async def ask_later(text: str) -> str:
        raise LookupError(text)

    assert ask("hi") == "HI"
    assert ask(text="by name") == "BY NAME"
    with pytest.raises(LookupError, match="hi"):
        ask("hi", fail=True)
    with pytest.raises(LookupError, match="later"):
        await ask_later("later")
    assert waiting(client) == [("hi", "HI"), ("by name", "BY NAME")]
    assert client.observations_lost == 0


async def test_methods_and_objects(client) -> None:
    class Teacher:
        @client.observe(task="intents", output=lambda result: result["label"])
        async def ask(self, text: str) -> dict[str, str]:
            return {"label": f"label of {text}"}

    assert await Teacher().ask("x") == {"label": "label of x"}
    assert waiting(client) == [("x", "label of x")]


@pytest.mark.parametrize(
    ("options", "argument", "result", "why"),
    [
        ({}, 7, "a", "no argument is a text"),
        ({}, "", "a", "no argument is a text"),
        ({}, "x", 7, "the result is no text"),
        ({"output": lambda result: result["secret"]}, "x", {}, "its selector raised KeyError"),
        ({"input": lambda: "x"}, "x", "a", "its selector raised TypeError"),
    ],
)
def test_what_cannot_be_recorded_is_said_once_and_raises_nothing(
    client, caplog, options, argument, result, why
) -> None:
    @client.observe(task="intents", **options)
    def ask(argument):
        return result

    with caplog.at_level(logging.WARNING, "stillhouse.client"):
        assert ask(argument) is result
        assert ask(argument) is result
    [record] = caplog.records
    assert why in record.getMessage()
    assert "secret" not in record.getMessage()
    assert client.observations_lost == 2


def test_the_queue_is_bounded(client, monkeypatch) -> None:
    monkeypatch.setattr(observing, "WAITING", 3)

    @client.observe(task="intents")
    def ask(text: str) -> str:
        return text

    for number in range(5):
        ask(str(number))
    assert [text for text, _ in waiting(client)] == ["0", "1", "2"]
    assert client.observations_lost == 2


@pytest.mark.parametrize(("field", "options"), [("task", {"task": "My Task"}), ("tenant", {"task": "t", "tenant": ""})])
def test_a_name_that_cannot_be_one_is_refused_where_it_is_written(client, field, options) -> None:
    with pytest.raises(ValueError, match=f"{field} .* cannot be one: use lower-case"):
        client.observe(**options)(str.upper)
