"""Counts: a manifest of a kilobyte that speaks of billions is refused in little memory and time, wherever it is read."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforce.errors import StoreError
from reinforce.sources.table_guard import read_table
from reinforce.store.samples import SCHEMA, Samples
from tests.store.test_block import some_samples

pytestmark = pytest.mark.unit

KEYS = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("n", pa.int32())])
CALLS = {
    "store": "from reinforce.store.store import Store; Store(where)",
    "inspect": "from reinforce.verification.summary import summarise; from pathlib import Path; summarise(Path(where))",
    "verify": "from reinforce.verification.verify import verify_store; from pathlib import Path; verify_store(Path(where))",
    "pull": "from reinforce.sharing.pull import pull; from pathlib import Path; pull(where, Path(where) / 'out')",
    "part": "from reinforce.sharing.pull import pull; from pathlib import Path; pull(where, Path(where) / 'out', views=1)",
}
LIMITED = """
import resource, sys, time
where = sys.argv[1]
import torch, pyarrow.parquet, zarr, reinforce.sharing.pull, reinforce.verification.verify, reinforce.verification.summary
from reinforce.errors import StoreError
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20),) * 2)
began = time.process_time()
try:
    CALL
except StoreError as error:
    print(error.args[0].splitlines()[1], time.process_time() - began < 5)
"""


def hostile(store: Path, root: Path, changes: dict[str, Any]) -> Path:
    """A manifest of a few kilobytes, and a publication of it."""
    about = json.loads((store / "manifest.json").read_bytes())
    about["settings"]["source"]["num_samples"] = 1 << 31
    about["settings"] |= {"block_size": 1, **changes}
    about["counts"] = {"ok": 1 << 31, "missing": 0, "corrupt": 0}
    about["files"] = {"samples.parquet": "0" * 64}
    text = json.dumps(about).encode()
    (root / "manifest.json").write_bytes(text)
    entry = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
    files = {"manifest.json": entry, "samples.parquet": {"sha256": "0" * 64, "bytes": 1000}}
    lists = {"name": "x", "licences": {}, "files": files, "bundles": []}
    (root / "publication.json").write_text(json.dumps({"format": "reinforce-publication", "schema_version": 1, **lists}))
    assert len(text) < 4096
    return root


@pytest.mark.process
@pytest.mark.parametrize("call", CALLS)
def test_counts_are_compared_with_what_is_listed_first(call: str, store: Path, tmp_path: Path) -> None:
    root = hostile(store, tmp_path, {"views": 65535, "record_views": 1})
    script = LIMITED.replace("CALL", CALLS[call])
    done = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-600:]
    assert "files of 0 blocks for 2147483648 blocks of 65535 stripes True" in done.stdout
    assert not (root / "out").exists()


def parquet(schema: pa.Schema, columns: list[Any], **given: Any) -> io.BytesIO:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd", **given)
    return sink


def test_rows_that_are_all_the_same_are_refused() -> None:
    """A billion of them have a kilobyte: the first row group tells."""
    rows = 1 << 20
    same = parquet(KEYS, [pa.array(["x"] * rows), pa.nulls(rows, pa.int32())])
    assert len(same.getvalue()) < 1 << 13
    with pytest.raises(StoreError, match="1 keys for 1048576 rows"):
        read_table(same, "table", rows, KEYS)


def test_a_long_text_that_many_rows_have_is_counted_for_each() -> None:
    rows = 1 << 16
    names = pa.schema([*KEYS, pa.field("reason", pa.string())])
    columns = [pa.array(map(str, range(rows))), pa.nulls(rows, pa.int32())]
    once = parquet(names, [*columns, pa.array(["y" * 4000] * rows)])
    assert len(once.getvalue()) < 1 << 20
    with pytest.raises(StoreError, match="texts of more than 1024 bytes per row"):
        read_table(once, "table", rows, names)


def test_other_groups_columns_or_texts_are_refused() -> None:
    long = parquet(KEYS, [pa.array(["k" * 5000]), pa.array([1], pa.int32())])
    with pytest.raises(StoreError, match="a text of 5000 bytes"):
        read_table(long, "table", 1, KEYS)
    one = parquet(KEYS, [pa.array(["k"]), pa.array([1], pa.int32())])
    with pytest.raises(StoreError, match="columns key n"):
        read_table(one, "table", 1, SCHEMA)
    with pytest.raises(StoreError, match="1 rows for 2 samples"):
        read_table(one, "table", 2, KEYS)
    assert read_table(one, "table", 1, KEYS).to_pylist() == [{"key": "k", "n": 1}]


def test_a_table_that_is_ours_is_read(tmp_path: Path) -> None:
    (tmp_path / "samples.parquet").write_bytes(some_samples().to_parquet())
    assert Samples.from_parquet(tmp_path / "samples.parquet", 6, 4).keys == some_samples().keys
