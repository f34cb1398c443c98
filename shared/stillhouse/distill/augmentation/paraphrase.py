"""Paraphrases by the teacher, with back-off: a text said otherwise teaches only where the teacher still answers alike.

The teacher writes each text anew; what it answers to its own words must be the text's label, else a more timid wording
is asked for, and in the end the text stays as it is. Consistency filtering as in back-translation for UDA (Xie et al.
1904.12848) and ZeroGen's self-check (Ye et al. 2202.07922). Takes any `ask` that is a coroutine from a prompt to text.

No benchmark measures whether it helps: it needs a teacher that writes. The one that is small enough for the benchmarks'
machine, SmolLM2-135M-Instruct, answers such messages in the place of saying them otherwise.

>>> import asyncio
>>> async def ask(prompt: str) -> str:
...     return "where has my parcel got to"
>>> async def label(text: str) -> LabelledText:
...     return LabelledText(text, "order_status")
>>> made = asyncio.run(paraphrased([LabelledText("where is my order", "order_status")], ask, label))
>>> made.texts[0].text
'where has my parcel got to'
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from stillhouse.distill.data import LabelledText

Ask = Callable[[str], Awaitable[str]]
Label = Callable[[str], Awaitable[LabelledText]]

# Boldest first. Each is one back-off from the one before it.
WORDINGS: Final = (
    "Say the following message in other words, as another person would write it. Keep its meaning. "
    "Answer with the message alone.\n\n{text}",
    "Change two or three words of the following message to others with the same meaning. "
    "Answer with the message alone.\n\n{text}",
)


@dataclass(frozen=True, slots=True)
class Paraphrased:
    """`texts`: the paraphrases that held, labelled by the teacher anew. What was asked for it, and what failed.

    `asked` counts calls of `ask`, `labelled` those of `label`; `unchanged` texts have no paraphrase that held.
    """

    texts: list[LabelledText]
    asked: int
    labelled: int
    unchanged: int


async def paraphrased(
    texts: Sequence[LabelledText],
    ask: Ask,
    label: Label,
    *,
    wordings: Sequence[str] = WORDINGS,
    at_once: int = 8,
) -> Paraphrased:
    """A paraphrase of each text that the teacher answers as it answered the text, where it finds one.

    `wordings` are prompts with `{text}`, tried in turn. An empty or repeated answer counts as not held. Errors of `ask`
    and `label` come through: an augmentation that silently shrank would be read as one that does not help.
    """
    room = asyncio.Semaphore(at_once)
    asked = labelled = 0

    async def one(text: LabelledText) -> LabelledText | None:
        nonlocal asked, labelled
        async with room:
            for wording in wordings:
                asked += 1
                said = (await ask(wording.format(text=text.text))).strip()
                if not said or said.casefold() == text.text.strip().casefold():
                    continue
                labelled += 1
                found = await label(said)
                if found.label == text.label:
                    return LabelledText(said, found.label, found.distribution, text.weight)
        return None

    made = await asyncio.gather(*(one(text) for text in texts))
    kept = [text for text in made if text is not None]
    return Paraphrased(kept, asked, labelled, len(texts) - len(kept))
