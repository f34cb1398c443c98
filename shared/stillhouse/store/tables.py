"""One Delta table in a local folder: an id is written once, reads skip files by time and task, small files are joined.

Text stays out of the Delta log: statistics are kept for `time`, `tenant` and `task` only, so that erasing a row's files
erases the row. pyarrow and deltalake are imported when a table is first used, because `stillhouse.store.redaction` must
stay cheap to import.
"""

from __future__ import annotations

import fcntl
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import unquote

import structlog

from stillhouse.store.redaction import input_hash

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

ATTEMPTS: Final = 12  # at a commit that others got in the way of
COUNTS_KEPT: Final = 10_000  # counts of files, kept because a count may be asked for every second
READ_ATTEMPTS: Final = 5  # at a snapshot whose files an erasure took away
COMPACT_EVERY: Final = 32  # commits; looking for ids takes up to 1 ms for each file
FILE_BYTES: Final = 8 << 20  # what compaction aims at: a file this large is not rewritten any more
CONFIGURATION: Final = {
    "delta.dataSkippingStatsColumns": "time,tenant,task",
    # Readers take a fresh snapshot for each read, so what compaction replaced is of no use for long.
    "delta.deletedFileRetentionDuration": "interval 1 hours",
    "delta.logRetentionDuration": "interval 1 days",
}

Transaction = tuple[str, int]

log = structlog.get_logger()


class StoreBusy(OSError):
    """Other writers got in the way for too long; nothing was written, and trying later is the remedy."""


class Table:
    """The Delta table of `row_class` in `folder`; its first field is the id that rows merge on.

    Blocking; safe for threads and processes. Nothing is read or written before the first call. Rows with an `input`
    but no `input_sha256` get that column when written: erasure finds rows by it.
    """

    def __init__(self, folder: Path, row_class: type[Any], spread: timedelta | None = timedelta(minutes=10)) -> None:
        """`spread`: how far apart the times of rows with one id may be; only files so near are looked at for ids.

        None: any distance, and all files are.
        """
        self.folder = folder
        self._log = folder / "_delta_log"
        self._spread = spread
        self.row_class = row_class
        self.id_column = fields(row_class)[0].name
        names = {field.name for field in fields(row_class)}
        self._hashes_input = "input" in names and "input_sha256" not in names
        self._reader: DeltaTable | None = None
        self._reader_lock = threading.Lock()
        self._writer: DeltaTable | None = None
        self._counted: dict[tuple[str, str, str, datetime | None], int] = {}

    def schema(self) -> pa.Schema:
        """Columns in the order of the row's fields. Only id and time are required: fields may be added later."""
        import pyarrow as pa

        hints = get_type_hints(self.row_class)
        columns = [
            pa.field(field.name, _arrow_type(hints[field.name]), nullable=field.name not in (self.id_column, "time"))
            for field in fields(self.row_class)
        ]
        return pa.schema(columns + ([pa.field("input_sha256", pa.string())] if self._hashes_input else []))

    def append(
        self,
        rows: Sequence[Any],
        transaction: Transaction | None = None,
        keep: Callable[[dict[str, Any]], bool] = lambda row: True,
    ) -> set[str]:
        """Write the rows whose ids are not there yet, and give those ids. All or nothing; of repeats the first counts.

        With a `transaction` (application id, version) that the table has seen already, nothing is written. `keep` is
        asked about each row (with its hash) while no other writer is at work. Raises `ValueError` for times without
        offset and `StoreBusy` when others committed first `ATTEMPTS` times.
        """
        from deltalake import CommitProperties, PostCommitHookProperties, write_deltalake
        from deltalake import Transaction as AppTransaction
        from deltalake.exceptions import CommitFailedError

        with self.exclusive():
            batch: dict[str, dict[str, Any]] = {}
            for row in filter(keep, map(self._as_dict, rows)):
                batch.setdefault(row[self.id_column], row)
            if not batch:
                return set()
            near = self._near([row["time"] for row in batch.values()])
            for attempt in range(1, ATTEMPTS + 1):
                table = self._current()
                if transaction is not None and _seen(table, transaction):
                    return set()
                known = set(_collect(table, near, [self.id_column])[self.id_column].to_pylist())
                new = [row for row_id, row in batch.items() if row_id not in known]
                if not new:
                    return set()
                source = self._arrow(new)
                same_columns = {field.name for field in table.schema().fields} == set(source.column_names)
                # A compare-and-set: without retries of deltalake's own, it writes the version after the one whose ids
                # were read, or fails. A MERGE does the same in five times the time (50 ms against 8 at 20,000 rows).
                once = CommitProperties(
                    app_transactions=[AppTransaction(*transaction)] if transaction else None, max_commit_retries=0
                )
                try:
                    write_deltalake(
                        table,
                        source,
                        mode="append",
                        schema_mode=None if same_columns else "merge",
                        commit_properties=once,
                        post_commithook_properties=PostCommitHookProperties(create_checkpoint=False),
                    )
                    break
                except CommitFailedError:  # by a writer who does not know our lock, on another machine for example
                    if attempt == ATTEMPTS:
                        raise StoreBusy(f"{self.folder}: others committed first {ATTEMPTS} times") from None
                    time.sleep(min(1.0, 0.01 * 2**attempt) * random.uniform(0.5, 1.0))
            if table.version() % COMPACT_EVERY == 0:
                self._tidy(table)
            return {row[self.id_column] for row in new}

    def read(self, where: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows that fulfil the SQL condition `where`, in no order; no rows where nothing was ever written."""
        schema = self.schema() if columns is None else _project(self.schema(), columns)
        for attempt in range(1, READ_ATTEMPTS + 1):
            table = self._snapshot()
            if table is None:
                return schema.empty_table()
            try:
                return _collect(table, where, schema.names).select(schema.names).cast(schema)
            except Exception as error:  # deltalake raises several kinds for a file that is not there any more
                if attempt == READ_ATTEMPTS or "not found" not in str(error).lower():
                    raise
        raise AssertionError("unreachable")

    def count(self, tenant: str, task: str, since: datetime | None = None) -> int:
        """Rows of a task later than `since`. A file is read once at most, and only if its statistics do not tell."""
        import pyarrow as pa

        for attempt in range(1, READ_ATTEMPTS + 1):
            table = self._snapshot()
            if table is None:
                return 0
            files = pa.table(table.get_add_actions(flatten=True)).to_pylist()
            try:
                return sum(self._count_in(file, tenant, task, since) for file in files)
            except FileNotFoundError:  # an erasure took it away
                if attempt == READ_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _count_in(self, file: dict[str, Any], tenant: str, task: str, since: datetime | None) -> int:
        """Rows of one data file, which never changes under its name."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        # Names in statistics are never narrower than the rows' (long ones are cut); times are cut to milliseconds.
        lowest: list[Any] = [file.get(f"min.{column}") for column in ("tenant", "task", "time")]
        highest: list[Any] = [file.get(f"max.{column}") for column in ("tenant", "task", "time")]
        if None not in lowest and None not in highest:
            if not (lowest[0] <= tenant <= highest[0] and lowest[1] <= task <= highest[1]):
                return 0
            if since is not None and highest[2] + timedelta(milliseconds=1) <= since:
                return 0
            if lowest[:2] == highest[:2] and (since is None or lowest[2] > since):
                return int(file["num_records"])
        asked = (file["path"], tenant, task, since)
        if asked not in self._counted:
            if len(self._counted) > COUNTS_KEPT:
                self._counted.clear()
            needed = _project(self.schema(), ["tenant", "task", "time"])
            read = pq.ParquetFile(self.folder / unquote(file["path"])).read(needed.names).cast(needed)
            is_one = pc.and_(pc.equal(read["tenant"], tenant), pc.equal(read["task"], task))
            if since is not None:
                is_one = pc.and_(is_one, pc.greater(read["time"], pa.scalar(since, read["time"].type)))
            self._counted[asked] = int(pc.sum(is_one).as_py() or 0)
        return self._counted[asked]

    def delete(self, where: str) -> int:
        """Delete the rows that fulfil `where`, and every file that is not part of the table now. Gives their number.

        Nothing of them is left on disk afterwards, also where an earlier call was interrupted. Readers at work read
        again. Nobody may write meanwhile, so the lock is held throughout.
        """
        with self.exclusive():
            if self._snapshot() is None:
                return 0
            table = self._current()
            deleted = int(table.delete(where)["num_deleted_rows"] or 0)
            table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)
            return deleted

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other writer of this machine. The kernel gives the lock back when a process dies.

        Commits would be safe without it. It spares them conflicts, and keeps an erasure from taking away files that
        another process has written but not yet committed.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.folder.with_name(f".{self.folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _current(self) -> DeltaTable:
        """The newest state, for the one writer at a time; the table is created where there is none."""
        from deltalake import DeltaTable

        if self._writer is not None and self._log.is_dir():
            try:
                self._writer.update_incremental()
                return self._writer
            except Exception:  # too far behind: the log was cleaned up meanwhile
                log.info("store_reopened", table=self.folder.name)
        if not DeltaTable.is_deltatable(str(self.folder)):
            DeltaTable.create(
                self.folder, self.schema(), mode="ignore", name=self.folder.name, configuration=CONFIGURATION
            )
        self._writer = DeltaTable(self.folder)
        return self._writer

    def _snapshot(self) -> DeltaTable | None:
        """The newest state for reading; None where nothing was ever written."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        with self._reader_lock:
            if not self._log.is_dir():  # nothing there yet, or the folder was removed
                self._reader = None
                return None
            if self._reader is not None:
                try:
                    self._reader.update_incremental()
                except Exception:  # too far behind: the log was cleaned up meanwhile
                    self._reader = None
            try:
                self._reader = self._reader or DeltaTable(self.folder)
            except TableNotFoundError:
                return None
            return self._reader

    def _tidy(self, table: DeltaTable) -> None:
        """Join small files, drop what was replaced over an hour ago, shorten the log. Never fails an append."""
        try:
            table.optimize.compact(target_size=FILE_BYTES)
            table.vacuum(dry_run=False)
            table.create_checkpoint()
            table.cleanup_metadata()
        except Exception as error:
            log.warning("store_not_compacted", table=self.folder.name, error=str(error))

    def _near(self, times: Sequence[datetime]) -> str:
        """Where rows with the ids of a batch can be."""
        if self._spread is None:
            return "true"
        return f"time >= {literal(min(times) - self._spread)} AND time <= {literal(max(times) + self._spread)}"

    def _as_dict(self, row: Any) -> dict[str, Any]:
        values = {field.name: getattr(row, field.name) for field in fields(self.row_class)}
        if values["time"].utcoffset() is None:
            raise ValueError(
                f"The time of row {values[self.id_column]!r} for {self.folder.name} has no offset: use an aware "
                "datetime, such as datetime.now(UTC)."
            )
        if self._hashes_input:
            values["input_sha256"] = input_hash(values["input"])
        return values

    def _arrow(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        import pyarrow as pa

        return pa.Table.from_pylist(rows, schema=self.schema())


def literal(value: str | datetime) -> str:
    """`value` as SQL. Times are compared in UTC, to the microsecond."""
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.astimezone(UTC).isoformat(timespec='microseconds')}'"
    return "'" + value.replace("'", "''") + "'"


def _seen(table: DeltaTable, transaction: Transaction) -> bool:
    latest = table.transaction_version(transaction[0])
    return latest is not None and latest >= transaction[1]


def _collect(table: DeltaTable, where: str, columns: Sequence[str]) -> pa.Table:
    """What deltalake's engine finds. Columns that the table does not have yet are null."""
    import pyarrow as pa

    known = {field.name for field in table.schema().fields}
    found = pa.table(table.scan(columns=[column for column in columns if column in known], predicate=where))
    for column in columns:
        if column not in known:
            found = found.append_column(column, pa.nulls(found.num_rows))
    return found


def _project(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([schema.field(column) for column in columns])


def _arrow_type(hint: Any) -> pa.DataType:
    """The column type of a row's field."""
    import pyarrow as pa

    if get_origin(hint) is UnionType:  # `str | None`
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return pa.string()
    return {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        datetime: pa.timestamp("us", "UTC"),
    }[hint]
