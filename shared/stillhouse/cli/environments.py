"""`stillhouse env make` and `list`: the environments that serve, quantise and convert students."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from stillhouse.cli._common import AsJson, console, fail, show_json, show_table

COLLECTED: Final = re.compile(r"Collecting ([A-Za-z0-9._-]+)")

app = typer.Typer(
    no_args_is_help=True, help="Python environments beside ours: serving (vLLM), quantising, one for each exporter."
)


@app.command()
def make(name: Annotated[str, typer.Argument(help="serving, quantising, litert, executorch or coreml.")]) -> None:
    """Make an environment now instead of at its first use. Downloads its pinned packages; takes minutes."""
    import time

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from stillhouse.environments.environment import NAMES, PURPOSE, exists, folder_of, list_of, python_of
    from stillhouse.models.port import ModelError

    chosen = next((known for known in NAMES if known == name), None)
    if chosen is None:
        fail(f"There is no environment {name!r}; environments are {', '.join(NAMES)}.")
    out = console()
    if exists(chosen):
        out.print(f"{chosen} is there: {python_of(chosen)}", soft_wrap=True, markup=False)
        return
    out.print(f"Making {folder_of(chosen)} for {PURPOSE[chosen]}; its packages are downloaded.", soft_wrap=True)
    begun = time.monotonic()
    wanted = sum("==" in line for line in list_of(chosen).read_text(encoding="utf-8").splitlines())
    columns = (TextColumn("{task.completed:.0f} of {task.total:.0f} packages"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=out, transient=True) as bar:
        row, seen = bar.add_task("", total=wanted), set[str]()

        def show(line: str) -> None:
            if (found := COLLECTED.match(line)) is not None:
                seen.add(found.group(1).lower())
            bar.update(row, completed=min(wanted, len(seen)), description=line[: max(20, out.width - 60)])

        try:
            python = python_of(chosen, show)
        except ModelError as error:
            fail(str(error))
    size = _bytes(str(folder_of(chosen)))
    out.print(f"{chosen}, {size / 1e9:.1f} GB in {time.monotonic() - begun:.0f} s: {python}", soft_wrap=True)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show the environments, what they are for, and folders of older lists, which may be removed."""
    from stillhouse.environments.environment import NAMES, PURPOSE, exists, folder_of, python_of, root

    rows: list[dict[str, object]] = []
    for name in NAMES:
        there = exists(name)
        python = python_of(name) if there else None
        folder = folder_of(name) if python is None else python.parent.parent
        state = "ready" if there else "unfinished" if folder.exists() else "absent"
        size = _bytes(str(folder)) if folder.exists() else 0
        rows.append({"name": name, "state": state, "for": PURPOSE[name], "folder": str(folder), "bytes": size})
    wanted = {folder_of(name) for name in NAMES}
    older = [path for name in NAMES for path in sorted(root().glob(f"{name}-*")) if path not in wanted]
    for path in older:
        said = {"name": path.name.rsplit("-", 1)[0], "state": "old", "for": "an older list; may be removed"}
        rows.append({**said, "folder": str(path), "bytes": _bytes(str(path))})
    if as_json:
        show_json(rows)
        return
    columns = ("name", "state", "for", "bytes", "folder")
    show_table(columns, [[row[column] for column in columns] for row in rows], "")


def _bytes(folder: str) -> int:
    import os

    return sum(os.lstat(os.path.join(where, file)).st_size for where, _, files in os.walk(folder) for file in files)
