"""`prices.toml`, beside the task files: what machines, storage, people and teachers cost, and from when on.

    [[price]]
    valid_from = 2026-01-01
    source = "contract of January"
    usd_per_cpu_hour = 0.05
    usd_per_gb_month = 0.023

    [price.usd_per_call]
    "default/manga-support" = 0.002

An entry holds from its date (UTC) for the keys that it names, until a later entry names them again. What a task file
declares holds where no entry does. Amounts in the ledger keep the price of their time.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator

from stillhouse.tasks.section import Section

PRICES_FILE: Final = "prices.toml"

Unit = Literal["usd_per_cpu_hour", "usd_per_gpu_hour", "usd_per_gb_month", "usd_per_human_hour"]


class PriceFileError(Exception):
    """A price book that cannot be used; the message names file, key and mend."""


class PriceEntry(Section):
    """Prices from a date on."""

    valid_from: datetime = Field(description="A date (its midnight, UTC) or a time with offset.")
    source: str = Field(default="declared", description="Where the prices come from; shown beside them.")
    usd_per_cpu_hour: float | None = Field(default=None, ge=0, description="Measured CPU time.")
    usd_per_gpu_hour: float | None = Field(default=None, ge=0, description="GPU time, where a service reports it.")
    usd_per_gb_month: float | None = Field(default=None, ge=0, description="A gigabyte (1e9 bytes) in the store.")
    usd_per_human_hour: float | None = Field(default=None, ge=0, description="People, where a service reports minutes.")
    usd_per_call: dict[str, float] = Field(default_factory=dict, description="One call of a task's teacher, by task.")

    @field_validator("valid_from", mode="before")
    @classmethod
    def _with_offset(cls, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, datetime) and value.utcoffset() is None:
            raise ValueError("a time without offset; write a date, or add Z")
        return value

    @field_validator("usd_per_call")
    @classmethod
    def _amounts(cls, prices: dict[str, float]) -> dict[str, float]:
        for key, usd in prices.items():
            if "/" not in key:
                raise ValueError(f"{key!r} names no task; write <tenant>/<task>")
            if not usd >= 0:
                raise ValueError(f"{key!r} costs {usd!r}; give at least 0")
        return prices


class PriceBook(Section):
    """All entries, earliest first."""

    entries: tuple[PriceEntry, ...] = ()

    def usd(self, unit: Unit, at: datetime) -> float | None:
        """The price of a unit at a moment; None: the book names none."""
        return self._newest(at, lambda entry: getattr(entry, unit))

    def usd_per_call(self, task_key: str, at: datetime) -> float | None:
        """The price of one call of a task's teacher at a moment; None: the book names none."""
        return self._newest(at, lambda entry: entry.usd_per_call.get(task_key))

    def _newest(self, at: datetime, of: Any) -> float | None:
        for entry in reversed(self.entries):
            if entry.valid_from <= at and (usd := of(entry)) is not None:
                return float(usd)
        return None


def load_prices(folder: Path) -> PriceBook:
    """The price book in a folder of task files; empty where there is none. Raises `PriceFileError`."""
    path = folder / PRICES_FILE
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return PriceBook()
    except (OSError, UnicodeDecodeError) as error:
        raise PriceFileError(f"{path}: cannot be read ({error}); make it readable UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise PriceFileError(f"{path}: not valid TOML ({error}); mend the syntax there.") from None
    if not isinstance(raw.get("price"), list) or set(raw) != {"price"}:
        raise PriceFileError(f"{path}: holds [[price]] tables and nothing else; remove the rest.")
    try:
        book = PriceBook(entries=tuple(PriceEntry.model_validate(entry) for entry in raw["price"]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PriceFileError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}.") from None
    return book.model_copy(update={"entries": tuple(sorted(book.entries, key=lambda entry: entry.valid_from))})
