"""Structure: damage that knows what it spoils: JSON values, metadata and numbers of zarr arrays, parquet tables."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from tests.fuzz.archives import change_tar, change_zip
from tests.fuzz.damage import Damage, Rng, files_of, name_of, pick, rewrite

_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    256,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63,
    2**70,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
)
_TEXTS = (
    "",
    "x",
    "../x",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "é",
    "0" * 64,
    "f" * 64,
    "x" * 100_000,
    "blocks/../../x",
    "bytes",
    "uint8",
    "float64",
)
_BYTES = {"name": "bytes"}
_ZARR: dict[str, tuple[Any, ...]] = {
    "codecs": (
        [], [_BYTES], [{"name": "bytes", "configuration": {"endian": "big"}}],
        [_BYTES, {"name": "gzip", "configuration": {"level": 1}}],
        [_BYTES, {"name": "zstd", "configuration": {"level": 0, "checksum": False}}], [{"name": "vlen-utf8"}],
        [_BYTES, {"name": "crc32c"}], [{"name": "transpose", "configuration": {"order": [1, 0]}}, _BYTES],
        [_BYTES, {"name": "numcodecs.pickle"}], [_BYTES, {"name": "blosc", "configuration": {}}],
    ),
    "data_type": (
        "uint8", "int8", "uint64", "float16", "complex128", "bool", "string", "r800000000", {"name": "numpy.datetime64"},
        "object",
    ),
    "shape": ([], [0], [-1], [2**40], [2**62, 2**62], [1, 1, 1, 1, 1], [4, 2, 2**33]),
    "chunk_shape": ([0], [1], [2**40], [-1], [2**31, 2**31]),
    "fill_value": (None, "NaN", "0xffffffff", 2**70, -1, [0]),
    "node_type": ("group", "array"),
    "zarr_format": (2, 4),
    "separator": (".", "/", "..", ""),
    "attributes": ({}, {"reinforce": {"reasons": {"x": 1}}}, {"reinforce": {"reasons": {"-1": "r", "99999": "r"}}}),
}  # fmt: skip


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every place of a JSON document, as what holds it and the key or position there."""
    inside = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, item in inside[:200]:
        found.append((value, key))
        _places(item, found)
    return found


def _hostile(rng: Rng, old: Any) -> Any:
    deep: Any = []
    for _ in range(int(rng.choice([5, 100, 900]))):
        deep = [deep]
    others: tuple[Any, ...] = (
        None,
        True,
        False,
        [],
        {},
        [None],
        {"x": 1},
        deep,
        [0] * 3000,
        [old, old],
        {"x": old},
        str(old)[:100],
        [old],
    )
    if isinstance(old, int | float) and rng.integers(2):
        return old + int(rng.integers(-2, 3))
    group = (_NUMBERS, _NUMBERS, _TEXTS, others)[int(rng.integers(4))]
    return group[int(rng.integers(len(group)))]


def change_json(rng: Rng, root: Path) -> str | None:
    path = pick(rng, files_of(root, ".json"))
    return None if path is None else _change(rng, root, path)


def _change(rng: Rng, root: Path, path: Path) -> str | None:
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return None
    said = []
    for _ in range(int(rng.integers(1, 3))):
        places = _places(document, [])
        if not places:
            return None
        if path.name == "zarr.json" and rng.integers(2):
            known = [p for p in places if p[1] in _ZARR]
            places = known or places
        inside, key = places[int(rng.integers(len(places)))]
        what = int(rng.integers(8))
        if what == 0:
            del inside[key]
        elif what == 1 and isinstance(inside, dict):
            inside[f"{key}_"[:200]] = inside[key]
        elif what == 2:
            other, there = places[int(rng.integers(len(places)))]
            inside[key] = json.loads(json.dumps(other[there])) if there in other or isinstance(there, int) else None
        elif path.name == "zarr.json" and key in _ZARR and rng.integers(4):
            inside[key] = _ZARR[key][int(rng.integers(len(_ZARR[key])))]
        else:
            inside[key] = _hostile(rng, inside[key])
        said.append(f"{key}"[:60])
    try:
        rewrite(path, json.dumps(document).encode())
    except RecursionError:  # json itself cannot write it
        return None
    return f"{', '.join(said)} in {name_of(root, path)}"


def change_zarr(rng: Rng, root: Path) -> str | None:
    paths = files_of(root, "zarr.json")
    return _change(rng, root, paths[int(rng.integers(len(paths)))]) if paths else None


def change_array(rng: Rng, root: Path) -> str | None:
    """Other numbers in an array of a block, written as a writer would: shards and checksums are right."""
    folders = [p.parent for p in files_of(root, "zarr.json") if (p.parent / "c").is_dir()]
    if not folders:
        return None
    folder = folders[int(rng.integers(len(folders)))]
    try:
        array = zarr.open_array(folder, mode="r")
        if array.nbytes > 1 << 20:
            return None
        values = np.array(array[...])
        flat = values.reshape(-1)
        for _ in range(int(rng.integers(1, 4))):
            number = int(rng.choice([0, 1, -1, 2, 3, 100, 2**31 - 1, -(2**31), int(rng.integers(256))]))
            flat[int(rng.integers(flat.size))] = np.array(number).astype(values.dtype)
        for path in files_of(folder / "c"):
            path.unlink()
        zarr.open_array(folder, mode="r+")[...] = values
    except Exception:  # noqa: BLE001 - it was damaged before, in any way
        return None
    return f"numbers of {name_of(root, folder)}"


def change_table(rng: Rng, root: Path) -> str | None:
    path = pick(rng, files_of(root, ".parquet"))
    if path is None:
        return None
    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
    except Exception:  # noqa: BLE001 - it was damaged before, in any way
        return None
    if not rows:
        return None
    name = table.column_names[int(rng.integers(table.num_columns))]
    row, what = int(rng.integers(len(rows))), int(rng.integers(8))
    options: dict[str, Any] = {}
    if what == 0:
        table = table.drop_columns([name])
    elif what == 1:
        table = table.rename_columns([c + "_" if c == name else c for c in table.column_names])
    elif what == 2:
        table = table.take(rng.permutation(len(rows)))
    elif what == 3:
        table = pa.concat_tables([table, table.slice(row, 1)])
    elif what == 4:
        table = table.slice(0, row)
    elif what == 5:
        wide = pa.array([str(r[name]) if rng.integers(2) else None for r in rows])
        table = table.set_column(table.column_names.index(name), name, wide)
    else:
        old = rows[row][name]
        changed = {int: _NUMBERS[int(rng.integers(14))], str: _TEXTS[int(rng.integers(len(_TEXTS)))], bytes: b"x" * 32}
        rows[row][name] = None if rng.integers(4) == 0 else changed.get(type(old), 0)
        try:
            table = pa.Table.from_pylist(rows, schema=table.schema)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError):
            return None
    if rng.integers(3) == 0:
        options = {"compression": "gzip", "row_group_size": 1, "use_dictionary": False}
    sink = io.BytesIO()
    try:
        pq.write_table(table, sink, **options)
    except pa.ArrowException:  # the schema says that there are no nulls
        return None
    rewrite(path, sink.getvalue())
    return f"{name} of {name_of(root, path)}, in the way {what}"


STRUCTURES: tuple[Damage, ...] = (
    change_json,
    change_json,
    change_zarr,
    change_array,
    change_array,
    change_table,
    change_table,
    change_tar,
    change_zip,
)
