"""The language of a text, by py3langid.

Lui & Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

SURE: Final = 0.5  # probability below which no language is named: numbers, names, a word or two
UNKNOWN: Final = "unknown"


def language_identifier(languages: Sequence[str] = ()) -> Callable[[str], str]:
    """What names a text's language by its ISO 639-1 code, or says `unknown`; only `languages` are thought of, or all.

    Takes seconds to build. ValueError in one sentence for a code that is not known.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if languages:
        identifier.set_languages(list(languages))

    def language_of(text: str) -> str:
        code, probability = identifier.classify(text)
        return str(code) if probability >= SURE else UNKNOWN

    return language_of
