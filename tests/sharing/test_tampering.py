"""Tampering: nothing of a hostile or damaged publication is believed, unfolded or written elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforce.errors import ReinforceError, SourceError, StoreError
from reinforce.sharing.pull import pull
from reinforce.verification.verify import require, verify_store
from tests.conftest import Cli
from tests.sharing.conftest import EXTRA

pytestmark = pytest.mark.unit


def rewrite(own: Path, change: Callable[[dict[str, Any]], object]) -> None:
    about = json.loads((own / "publication.json").read_bytes())
    change(about)
    (own / "publication.json").write_text(json.dumps(about))


def list_file(own: Path, name: str, content: bytes) -> None:
    """Put this content's hash into the list."""
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(own, lambda about: about["files"].update({name: entry}))


def with_bundle(own: Path, content: bytes, block: int = 1, stripe: int = 0) -> None:
    """Put in a bundle, and a list that has its hash: what only the manifest's hashes can tell."""
    (own / f"blocks/{block:06d}.{stripe:03d}.zip").write_bytes(content)

    def change(about: dict[str, Any]) -> None:
        [entry] = [b for b in about["bundles"] if (b["block"], b["stripe"]) == (block, stripe)]
        entry.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))

    rewrite(own, change)


def refuses(own: Path, out: Path, match: str, kind: type[ReinforceError] = StoreError) -> None:
    outside = {p for p in out.parent.rglob("*") if out not in p.parents and p != out}
    with pytest.raises(kind, match=match):
        pull(str(own), out)
    assert not (out / "manifest.json").exists()
    assert {p for p in out.parent.rglob("*") if out not in p.parents and p != out} == outside, "nothing is written elsewhere"
    if (out / "blocks").exists():
        assert not [p for p in (out / "blocks").iterdir() if p.name.startswith(".")]
        assert {p.name for p in out.iterdir()} <= {"blocks", "pull.json", "samples.parquet", *EXTRA}


@pytest.mark.parametrize(
    "path", ["blocks/000001.000.zip", "blocks/000003.002.zip", "samples.parquet", "manifest.json", "README.md"]
)
def test_one_changed_byte_is_found(path: str, own: Path, tmp_path: Path) -> None:
    content = bytearray((own / path).read_bytes())
    content[len(content) // 2] ^= 1
    (own / path).write_bytes(content)
    refuses(own, tmp_path / "out", f"{path} is not the file|{Path(path).name} is not the file")


def test_a_file_of_another_length_or_missing_is_found(own: Path, tmp_path: Path) -> None:
    bundle = own / "blocks/000001.001.zip"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole + b"more")
    refuses(own, tmp_path / "long", "cannot be read", SourceError)
    bundle.write_bytes(whole[:-1])
    refuses(own, tmp_path / "short", "cannot be read", SourceError)
    bundle.unlink()
    refuses(own, tmp_path / "gone", "cannot be read", SourceError)


def test_a_publication_that_is_not_the_expected_one_is_refused(own: Path, tmp_path: Path, cli: Cli) -> None:
    right = hashlib.sha256((own / "publication.json").read_bytes()).hexdigest()
    assert cli("pull", own, "--sha256", right, "--out", tmp_path / "good")[0] == 0
    code, _, err = cli("pull", own, "--sha256", "0" * 64, "--out", tmp_path / "bad")
    assert code == 1
    assert "publication.json is not the file that was promised" in err
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a["files"].update({"../evil": a["files"]["samples.parquet"]}),
        lambda a: a["files"].update({"/etc/passwd": a["files"]["samples.parquet"]}),
        lambda a: a["files"].update({"shards/../../evil.tar": a["files"]["samples.parquet"]}),
        lambda a: a["files"].pop("samples.parquet"),
        lambda a: a["files"]["samples.parquet"].update(bytes=-1),
        lambda a: a["files"]["samples.parquet"].update(sha256="short"),
        lambda a: a["bundles"][0].update(block=-1),
        lambda a: a["bundles"][0].update(block=10**9),
        lambda a: a["bundles"][0].update(bytes=1 << 60),
        lambda a: a["bundles"][0].update(path="../../evil"),
        lambda a: a["bundles"].pop(),
        lambda a: a["bundles"].append(a["bundles"][0]),
        lambda a: a.update(surprise=1),
        lambda a: a.update(name="../x"),
        lambda a: a.update(schema_version=2),
    ],
)
def test_a_list_that_could_not_be_ours_is_refused(change: Any, own: Path, tmp_path: Path) -> None:
    rewrite(own, change)
    refuses(own, tmp_path / "out", "publication")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b"null"])
def test_a_list_that_is_no_json_is_refused(text: bytes, own: Path, tmp_path: Path) -> None:
    (own / "publication.json").write_bytes(text)
    refuses(own, tmp_path / "out", "publication.json is not valid")


def test_an_endless_list_is_not_read(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reinforce.sharing.fetch.MAX_BYTES", 1000)
    refuses(own, tmp_path / "out", "is too large")


def members(own: Path, block: int = 1) -> dict[str, bytes]:
    with zipfile.ZipFile(own / f"blocks/{block:06d}.000.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: dict[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, content)
    return sink.getvalue()


def test_a_bundle_with_other_things_in_it_is_refused(own: Path, tmp_path: Path) -> None:
    good = members(own)
    name = "records/c/0"
    cases = {
        "evil.txt": {**good, "evil.txt": b"1"},
        "only one": {**good, "../../../evil.txt": b"1"},
        "absolute": {**good, "/tmp/evil.txt": b"1"},
        "missing": {k: v for k, v in good.items() if k != name},
        "other": {**good, name: b"x" * len(good[name])},
        "longer": {**good, name: good[name] + b"x"},
    }
    for number, (_, files) in enumerate(cases.items()):
        with_bundle(own, zipped(files))
        refuses(own, tmp_path / f"out{number}", "A bundle is refused")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped([*good.items(), (name, good[name])])
    with_bundle(own, twice)
    refuses(own, tmp_path / "twice", "in only one|a name twice")


def test_a_bundle_that_unfolds_is_refused(own: Path, tmp_path: Path) -> None:
    good = members(own)
    with_bundle(own, zipped({**good, "records/c/0": bytes(64 << 20)}, zipfile.ZIP_DEFLATED))
    assert (own / "blocks/000001.000.zip").stat().st_size < 1 << 20
    refuses(own, tmp_path / "bomb", "compressed or encrypted")
    with_bundle(own, b"PK\x05\x06" + bytes(18))
    refuses(own, tmp_path / "empty", "in only one of bundle and manifest")
    with_bundle(own, b"no zip at all" * 10)
    refuses(own, tmp_path / "none", "BadZipFile")
    whole = zipped(good)
    at = whole.rindex(b"PK\x01\x02")
    with_bundle(own, whole[:at] + whole[at:].replace(b"PK\x01\x02", b"PK\x01\x03"))
    refuses(own, tmp_path / "directory", "BadZipFile")


def test_a_bundle_whose_headers_lie_is_refused(own: Path, tmp_path: Path) -> None:
    """Every byte of the directory at the end of the zip, changed: it comes right or not at all."""
    whole = zipped(members(own))
    rng = np.random.default_rng(0)
    directory = whole.index(b"PK\x01\x02")
    for number, at in enumerate(rng.integers(directory, len(whole), 60).tolist()):
        broken = bytearray(whole)
        broken[at] ^= int(rng.integers(1, 256))
        with_bundle(own, bytes(broken))
        out = tmp_path / f"out{number}"
        try:
            pull(str(own), out)
        except ReinforceError:
            assert not (out / "manifest.json").exists()
        else:
            require(verify_store(out))


def test_a_table_that_unfolds_to_terabytes_is_refused(own: Path, tmp_path: Path) -> None:
    """One key of fifty megabytes that every row names: two kilobytes on disk."""
    table = pq.read_table(own / "samples.parquet")
    huge = pa.DictionaryArray.from_arrays(pa.array(np.zeros(24, np.int32)), pa.array(["x" * (50 << 20)]))
    bomb = pa.table([huge if name == "key" else table[name] for name in table.column_names], names=table.column_names)
    sink = io.BytesIO()
    pq.write_table(bomb, sink, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
    cases = {"a text of 52428800": sink.getvalue(), "1000000 rows for 24": _table_of(10**6), "samples.parquet": b"PAR1"}
    for number, (found, content) in enumerate(cases.items()):
        assert len(content) < 1 << 20
        (own / "samples.parquet").write_bytes(content)
        list_file(own, "samples.parquet", content)
        refuses(own, tmp_path / f"out{number}", found)


def test_a_refused_pull_leaves_nothing_behind(own: Path, tmp_path: Path) -> None:
    """Its table is not that of the manifest, or its manifest names a codec of no data set: no block is fetched for that."""
    table = pq.read_table(own / "samples.parquet")
    sink = io.BytesIO()
    pq.write_table(table.set_column(1, "label", pa.array([2] * 24, pa.int32())), sink)
    kept, published = (own / "samples.parquet").read_bytes(), (own / "publication.json").read_bytes()
    (own / "samples.parquet").write_bytes(sink.getvalue())
    list_file(own, "samples.parquet", sink.getvalue())
    refuses(own, tmp_path / "table", "samples.parquet is not the file that was promised")
    assert not (tmp_path / "table").exists()
    (own / "samples.parquet").write_bytes(kept)
    (own / "publication.json").write_bytes(published)
    about = json.loads((own / "manifest.json").read_bytes())
    text = json.dumps({**about, "params_fields": [1, 2, 3, 999]}).encode()
    (own / "manifest.json").write_bytes(text)
    list_file(own, "manifest.json", text)
    refuses(own, tmp_path / "fields", "params layout")
    assert not (tmp_path / "fields").exists()


def _table_of(rows: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": pa.nulls(rows, pa.string())}), sink, compression="zstd")
    return sink.getvalue()


def test_a_manifest_that_lists_other_files_is_refused(own: Path, tmp_path: Path) -> None:
    about = json.loads((own / "manifest.json").read_bytes())
    for number, path in enumerate(
        ("../evil", "/etc/passwd", "blocks/000000.zarr/../../evil", "blocks/000000.zarr/..", "x" * 10_000)
    ):
        text = json.dumps({**about, "files": {**about["files"], path: "0" * 64}}).encode()
        (own / "manifest.json").write_bytes(text)
        list_file(own, "manifest.json", text)
        refuses(own, tmp_path / f"out{number}", "is no path of a reinforced dataset")
