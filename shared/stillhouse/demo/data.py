"""The user's own labelled messages: read from files, one clear sentence for whatever is wrong in one."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from stillhouse.demo.grammar import Message

SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".csv")
LONGEST: Final = 100_000  # characters of one message


class DataError(Exception):
    """Data that the demo cannot play; the message names file, line and mend."""


def read_messages(path: Path) -> list[Message]:
    """The messages of a file, or of every `.jsonl`, `.jsonl.gz` and `.csv` in a folder, in the order of their names.

    A row has `text`, `label` and optionally `domain`; other fields are not used. Repeated texts count once. Raises
    `DataError`.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
        if not files:
            raise DataError(f"{path} holds no {', '.join(SUFFIXES)} file; name a folder or file of labelled messages.")
    elif path.exists():
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"{path} is not one of {', '.join(SUFFIXES)}; write the messages in one of these formats.")
        files = [path]
    else:
        raise DataError(f"{path}: no such file or folder; name labelled messages that exist.")
    found: dict[str, tuple[str, str, str | None]] = {}
    for file in files:
        for where, row in _rows(file):
            text, label, domain = _checked(row, where)
            found.setdefault(" ".join(text.casefold().split()), (text, label, domain))
    if not found:
        raise DataError(f"{path} holds no rows; add messages with text and label.")
    with_domains = all(domain is not None for _, _, domain in found.values())
    by_domain = with_domains and len({domain for _, _, domain in found.values()}) >= 3
    return [Message(text, label, str(domain) if by_domain else label) for text, label, domain in found.values()]


def stratified(messages: Sequence[Message], share: float, rng: random.Random) -> tuple[list[Message], list[Message]]:
    """`messages` in random order, split into about `share` of every label (one at least) and the rest."""
    shuffled = list(messages)
    rng.shuffle(shuffled)
    by_label: dict[str, list[Message]] = {}
    for message in shuffled:
        by_label.setdefault(message.label, []).append(message)
    quota = {label: max(1, round(share * len(members))) for label, members in by_label.items()}
    taken: list[Message] = []
    rest: list[Message] = []
    for message in shuffled:
        if quota[message.label] > 0:
            quota[message.label] -= 1
            taken.append(message)
        else:
            rest.append(message)
    return taken, rest


def late_groups(messages: Sequence[Message], rng: random.Random, wanted: float = 0.35) -> tuple[str, ...]:
    """Groups that arrive late: drawn at random until they hold about `wanted` of `messages`. Sorted by name."""
    sizes: dict[str, int] = {}
    for message in messages:
        sizes[message.group] = sizes.get(message.group, 0) + 1
    order = sorted(sizes)
    rng.shuffle(order)
    late: list[str] = []
    held = 0
    for group in order:
        # One more group only where it brings the share nearer to what is wanted; never all of them.
        nearer = abs(held + sizes[group] - wanted * len(messages)) < abs(held - wanted * len(messages))
        if nearer and len(late) < len(order) - 1:
            late.append(group)
            held += sizes[group]
    return tuple(sorted(late))


def _checked(row: dict[str, Any], where: str) -> tuple[str, str, str | None]:
    for field in ("text", "label"):
        if row.get(field) is None:
            raise DataError(f"{where}: {field} is missing; every row needs text and label.")
        if not isinstance(row[field], str) or not row[field].strip():
            raise DataError(f"{where}: {field} is not a text; write a string that is not empty.")
        if not row[field].isprintable() and any("\ud800" <= sign <= "\udfff" for sign in row[field]):
            raise DataError(f"{where}: {field} has half of a surrogate pair; write the character itself.")
    if len(row["text"]) > LONGEST:
        raise DataError(f"{where}: text has {len(row['text']):,} characters; shorten it to {LONGEST:,}.")
    domain = row.get("domain")
    if domain is not None and not isinstance(domain, str):
        raise DataError(f"{where}: domain is not a text; write a string, or leave domain out.")
    return row["text"], row["label"].strip(), domain or None


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = _content(file)
    if file.name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
        try:
            missing = {"text", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{file}: line 1: there is no column {sorted(missing)[0]}; name the columns in the first line."
                )
            for row in reader:
                if None in row:
                    raise DataError(f"{file}: line {reader.line_num}: too many columns; quote texts with commas.")
                yield f"{file}: line {reader.line_num}", row
        except csv.Error as error:
            begins = reader.line_num + 1  # of the row that could not be read to its end
            raise DataError(f"{file}: line {begins}: not CSV ({error}); mend the quotes there.") from None
        return
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        try:
            row = json.loads(line)
        except ValueError:
            raise DataError(f"{where}: not JSON; write one object with text and label on each line.") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: not an object; write one object with text and label on each line.")
        yield where, row


def _content(file: Path) -> str:
    try:
        raw = file.read_bytes()
        return (gzip.decompress(raw) if file.name.endswith(".gz") else raw).decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}: not a whole gzip file ({error}); pack it again.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); make it readable.") from None
