"""`docker-compose.yml` and the Dockerfile behind it, read as far as the tests need."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


def stages() -> dict[str, list[tuple[str, str]]]:
    """By stage, its instructions after those of the stage that it is built from: (`FROM`, image), (`USER`, ...), ..."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    arguments: dict[str, str] = {}
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "ARG" and not found:
            name, _, default = rest.partition("=")
            arguments[name] = default
        elif word == "FROM":
            base, _, name = rest.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
            current = found[name] = [*found.get(base, [("FROM", base)])]
        else:
            current.append((word, rest))
    return found


def last(instructions: list[tuple[str, str]], word: str) -> str:
    """What holds of an instruction of which the last one counts."""
    return [rest for name, rest in instructions if name == word][-1]


def image_environment(instructions: list[tuple[str, str]]) -> dict[str, str]:
    """What `ENV` sets."""
    pairs = (pair for name, rest in instructions if name == "ENV" for pair in shlex.split(rest))
    return dict(pair.split("=", 1) for pair in pairs)


def environment(service: str) -> dict[str, str]:
    """What the file gives a service; a key without a value is taken from the shell, and left out here."""
    given = COMPOSE["services"][service].get("environment", {})
    return {name: value for name, value in given.items() if value is not None}
