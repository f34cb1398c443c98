"""Immutable artefact folders, named by content: `manifest.json` holds the size and sha256 of every file.

The sha256 of the manifest's bytes names the whole artefact, so a gate and a router that quote the same sha256 mean the
same bytes. Loading verifies every file; what does not match is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from stillhouse.events.students import ArtefactRef
from stillhouse.models.port import ModelError

MANIFEST_FILE = "manifest.json"


def write_manifest(folder: Path) -> ArtefactRef:
    """Write `folder/manifest.json` over every other file in `folder` and give the reference to the artefact.

    `size` is the sum of the files without the manifest. Everything is flushed to disk. Raises `OSError`.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in _files(folder):
        _flush(path)
        files[path.relative_to(folder).as_posix()] = {"sha256": _sha256(path), "size": path.stat().st_size}
    manifest = json.dumps({"files": files}, indent=1, sort_keys=True).encode()
    temporary = folder / f".{MANIFEST_FILE}.tmp"
    temporary.write_bytes(manifest)
    _flush(temporary)
    os.replace(temporary, folder / MANIFEST_FILE)
    _flush(folder)
    return _ref(folder, manifest, files)


def publish(staging: Path, target: Path) -> ArtefactRef:
    """Make a finished staging folder the artefact at `target`, in one rename.

    Both must be on one file system. Where `target` exists already and verifies, it stays (artefacts are immutable) and
    `staging` is removed: publishing the same job twice gives one artefact. Raises `OSError`, `ModelError`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        write_manifest(staging)
        try:
            os.rename(staging, target)
        except OSError:
            if not target.exists():
                raise
        _flush(target.parent)
    shutil.rmtree(staging, ignore_errors=True)
    return reference(target)


def reference(folder: Path) -> ArtefactRef:
    """The reference to an artefact that is already on disk, after verifying it. Raises `ModelError`."""
    verify(folder)
    manifest = (folder / MANIFEST_FILE).read_bytes()
    return _ref(folder, manifest, json.loads(manifest)["files"])


def verify(artefact: ArtefactRef | Path, sha256: str | None = None) -> Path:
    """Check every byte of an artefact and give its folder.

    With an `ArtefactRef`, or a folder and its manifest's `sha256`, the artefact must also be the one that is meant;
    with a folder alone it must only be whole. Raises `ModelError` that names the file.
    """
    if isinstance(artefact, ArtefactRef):
        folder, sha256 = folder_of(artefact), artefact.sha256
    else:
        folder = artefact
    path = folder / MANIFEST_FILE
    try:
        manifest = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); restore the artefact or train anew.") from None
    if sha256 is not None and hashlib.sha256(manifest).hexdigest() != sha256:
        raise ModelError(f"{path}: its sha256 is not {sha256[:12]}…; restore the artefact or train anew.")
    try:
        files: dict[str, dict[str, Any]] = json.loads(manifest)["files"]
        wanted = {name: (str(entry["sha256"]), int(entry["size"])) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{path}: not a manifest; restore the artefact or train anew.") from None
    found = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    for name in sorted(found.keys() - wanted.keys()):
        raise ModelError(f"{folder / name}: not in the artefact's manifest; remove the file or restore the artefact.")
    for name, (digest, size) in sorted(wanted.items()):
        file = found.get(name)
        if file is None:
            raise ModelError(f"{folder / name}: missing from the artefact; restore the artefact or train anew.")
        # The size first: it costs nothing and tells a cut-off copy from a changed one.
        if file.stat().st_size != size:
            raise ModelError(f"{file}: has {file.stat().st_size} bytes instead of {size}; restore the artefact.")
        if _sha256(file) != digest:
            raise ModelError(f"{file}: its sha256 is not the manifest's; restore the artefact or train anew.")
    return folder


def folder_of(ref: ArtefactRef) -> Path:
    """The local folder of a `file://` reference. Raises `ModelError` for other schemes."""
    parts = urlsplit(ref.uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ModelError(f"{ref.uri}: only file:// artefacts can be loaded; copy it to this machine first.")
    return Path(url2pathname(parts.path))


def _ref(folder: Path, manifest: bytes, files: dict[str, dict[str, Any]]) -> ArtefactRef:
    return ArtefactRef(
        uri=folder.resolve().as_uri(),
        sha256=hashlib.sha256(manifest).hexdigest(),
        size=sum(int(entry["size"]) for entry in files.values()),
    )


def _files(folder: Path) -> list[Path]:
    ours = {folder / MANIFEST_FILE, folder / f".{MANIFEST_FILE}.tmp"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in ours)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
