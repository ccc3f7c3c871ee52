"""Rehash: recorded hashes and lengths are made to fit what is there now, as someone would who damages a data set on purpose."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from tests.fuzz.damage import rewrite


def rehash(root: Path) -> None:
    """Make the lists of a store, a pack or a publication agree with its files, as far as these can still be read."""
    _bundles(root)
    for name, change in (("manifest.json", _manifest), ("pack.json", _pack), ("publication.json", _publication)):
        path = root / name
        if not path.is_file():
            continue
        try:
            document = json.loads(path.read_bytes())
            change(root, document)
            content = json.dumps(document).encode()
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            continue
        rewrite(path, content)


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _manifest(root: Path, manifest: dict[str, Any]) -> None:
    files = manifest["files"]
    for path in list(files):
        files[path] = _digest(root / path) or files[path]
    blocks = root / "blocks"
    inside = [p for p in blocks.rglob("*") if p.is_file() and ".zarr" in p.parent.as_posix()] if blocks.is_dir() else []
    for found in inside:
        files[found.relative_to(root).as_posix()] = _digest(found)
    if inside:
        for path in [p for p in files if not (root / p).exists()]:
            del files[path]


def _pack(root: Path, pack: dict[str, Any]) -> None:
    for path in pack["files"]:
        pack["files"][path] = _digest(root / path) or pack["files"][path]
    if pack.get("labels"):
        pack["labels"]["files"] = {"samples.parquet": pack["files"]["samples.parquet"]}
    for shard in pack["shards"]:
        path = root / shard["name"]
        if path.is_file():
            shard["sha256"], shard["bytes"] = _digest(path), path.stat().st_size


def _publication(root: Path, publication: dict[str, Any]) -> None:
    for path, entry in publication["files"].items():
        if (root / path).is_file():
            entry["sha256"], entry["bytes"] = _digest(root / path), (root / path).stat().st_size
    for bundle in publication["bundles"]:
        path = root / f"blocks/{bundle['block']:06d}.{bundle['stripe']:03d}.zip"
        if path.is_file():
            bundle["sha256"], bundle["bytes"] = _digest(path), path.stat().st_size


def _bundles(root: Path) -> None:
    """The manifest of a publication has the hashes of what is in the bundles."""
    bundles = sorted(p for p in (root / "blocks").glob("*.zip") if p.is_file())
    if not (root / "manifest.json").is_file():
        return
    try:
        manifest = json.loads((root / "manifest.json").read_bytes())
        for bundle in bundles:
            with zipfile.ZipFile(bundle) as members:
                for info in members.infolist():
                    path = f"blocks/{bundle.name[:6]}.zarr/{info.filename}"
                    manifest["files"][path] = hashlib.sha256(members.read(info)).hexdigest()
        if bundles:
            rewrite(root / "manifest.json", json.dumps(manifest).encode())
    except Exception:  # noqa: BLE001 - what cannot be read any more keeps its hash
        return
