"""What declines and what does not."""

from __future__ import annotations

import pytest

from stillhouse.quality.refusals import declines


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot provide medical advice.",
        "We are not able to share other customers' data.",
        "Sharing passwords is against our policy.",
        "I must decline to answer.",
        "We won’t discuss that here.",
        "That is beyond what I can do.",
        "Unfortunately I am not allowed to say.",
    ],
)
def test_it_declines(answer) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "You can return it within 30 days.",
        "Your parcel cannot arrive before Monday.",
        "I can help you with that: open the settings.",
        "The answer is 12. " + "It is a fine number. " * 12 + "I can't help more.",
    ],
)
def test_it_answers(answer) -> None:
    assert not declines(answer)
