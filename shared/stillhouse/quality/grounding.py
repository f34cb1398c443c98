"""Is what an answer states in what it was given? Its numbers and names are looked up; no model is asked.

A *claim* is a number, a code, an address, a quotation or a capitalised name. It has ground where the context, the input
or the catalogue holds it. That misses false statements made of true words, and blames paraphrases: it is a checker
whose errors a randomly drawn, human-reviewed sample corrects (`stillhouse.quality.prediction_powered`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?![\w])")
_CODE: Final = re.compile(r"(?<!\w)(?=[\w./:@#-]*\d)(?=[\w./:@#-]*[A-Za-z])[\w][\w./:@#-]*\w")
_ADDRESS: Final = re.compile(r"(?:https?://|www\.)[^\s<>\"')]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_QUOTED: Final = re.compile(r"[\"“”«»]([^\"“”«»]{2,80})[\"“”«»]")
_WORD: Final = re.compile(r"(?<!\w)[^\W\d_][\w'’-]*")
_JOINING: Final = frozenset(["of", "the", "and", "de", "van", "von"])
_SENTENCE: Final = re.compile(r"[.!?:;\n•]|[-*]\s")
_ORDINAL: Final = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_WORDS: Final = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        range(13),
        strict=True,
    )
)
# Capitalised for grammar's sake, wherever they stand.
_COMMON: Final = frozenset(
    ["i", "i'm", "i'll", "i've", "i'd", "ok", "yes", "no", "please", "sorry", "thanks", "thank", "hello", "hi", "dear"]
)


def ungrounded(answer: str, sources: Iterable[str], catalogue: Catalogue | None = None) -> list[str]:
    """The claims of `answer` that neither `sources` nor `catalogue` hold, in order; without repeats."""
    ground = _Ground(sources)
    return [
        claim
        for claim in claims(answer)
        if not ground.holds(claim) and not (catalogue is not None and catalogue.holds(claim))
    ]


def claims(answer: str) -> list[str]:
    """What an answer states that can be looked up: addresses, quotations, codes, numbers, names."""
    text, found = _special(_ORDINAL.sub("", unicodedata.normalize("NFKC", answer)))
    found += [match.group() for match in _NUMBER.finditer(text)]
    return list(dict.fromkeys(found + _names(text)))


def _special(text: str) -> tuple[str, list[str]]:
    """`text` without its addresses, quotations and codes, and these: the numbers and names in them are no others."""
    found: list[str] = []
    for pattern in (_ADDRESS, _QUOTED, _CODE):
        for match in pattern.finditer(text):
            found.append((match.group(1) if match.groups() else match.group()).strip(".,;:!?"))
        text = pattern.sub(lambda match: " " * len(match.group()), text)
    return text, found


class Catalogue:
    """Names that an answer may use, whatever its context says: products, places, people."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries`: one name each."""
        self._ground = _Ground(entries)

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """A text file with one name a line. ValueError where it cannot be read."""
        try:
            return cls(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read ({error})") from None

    def holds(self, claim: str) -> bool:
        """Whether a claim is in it."""
        return self._ground.holds(claim)


class _Ground:
    """Texts, to look claims up in."""

    def __init__(self, texts: Iterable[str]) -> None:
        plain = [_ORDINAL.sub("", unicodedata.normalize("NFKC", text)) for text in texts]
        self._text = f" {' | '.join(map(_plain, plain))} "
        self._words = frozenset(self._text.split())
        self._numbers = {float(_WORDS[word]) for word in self._words & _WORDS.keys()}
        for text in plain:
            for part in (text, _special(text)[0]):
                self._numbers |= {_value(match.group()) for match in _NUMBER.finditer(part)}

    def holds(self, claim: str) -> bool:
        if _NUMBER.fullmatch(claim):
            return _value(claim) in self._numbers
        plain = _plain(claim)
        if not plain or f" {plain} " in self._text:
            return True
        # "Ada Lovelace" has ground in "Lovelace, Ada" too; the parts of a code say nothing.
        return not any(map(str.isdigit, claim)) and all(word in self._words for word in plain.split())


def _names(text: str) -> list[str]:
    """Runs of capitalised words; a word that only begins a sentence is not one."""
    runs: list[list[str]] = [[]]
    end = 0
    for match in _WORD.finditer(text):
        word, gap = match.group(), text[end : match.start()]
        begins = end == 0 or _SENTENCE.search(gap) is not None
        if begins or gap.strip():
            runs.append([])
        name = word[0].isupper() and not begins and word.casefold() not in _COMMON
        if name or (runs[-1] and word in _JOINING):
            runs[-1].append(word)
        else:
            runs.append([])
        end = match.end()
    names = []
    for run in runs:
        while run and run[-1] in _JOINING:
            run.pop()
        if run:
            names.append(" ".join(run))
    return names


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", re.sub(r"['’]s\b", "", text.casefold())))


def _value(number: str) -> float:
    return float(number.replace(",", "") or 0)
