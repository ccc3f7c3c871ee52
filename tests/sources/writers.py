"""Files that sources are read from, as others write them: shards, tables, MNIST."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from reinforce.sources.source import Source
from tests.conftest import picture


def write_shards(source: Source, out: Path, per_shard: int = 10, labelled: bool = True) -> str:
    """Shards as webdataset's own writer makes them."""
    out.mkdir(parents=True)
    with webdataset.ShardWriter(f"{out}/part-%03d.tar", maxcount=per_shard, verbose=0) as writer:
        for i, key in enumerate(source.keys):
            suffix = "png" if source.read(i).startswith(b"\x89PNG") else "jpg"
            sample = {"__key__": key, suffix: source.read(i)}
            writer.write(sample | ({"cls": source.label(i)} if labelled else {}))
    last = (len(source) - 1) // per_shard
    return f"{out}/part-{{000..{last:03d}}}.tar"


def write_parquet(source: Source, path: Path, struct: bool) -> str:
    """A table as the Hub keeps images; with names of classes where `struct`."""
    path.parent.mkdir(parents=True)
    images = [source.read(i) for i in range(len(source))]
    labels = list(source.labels or [])
    if struct:
        rows = [{"bytes": image, "path": f"{key}.jpg"} for image, key in zip(images, source.keys, strict=True)]
        about = {"info": {"features": {"label": {"names": list(source.class_names), "_type": "ClassLabel"}}}}
        table = pa.table({"image": rows, "label": labels}).replace_schema_metadata({"huggingface": json.dumps(about)})
    else:
        table = pa.table({"img": pa.array(images, pa.binary()), "__key__": list(source.keys)})
    pq.write_table(table, path, row_group_size=7)
    return str(path)


def write_mnist(root: Path, count: int) -> np.ndarray:
    """Files as MNIST has them, of digits of our own."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digits = np.stack([np.asarray(picture(i, 28, 28).convert("L")) for i in range(count)])
    for part, n in (("train", count), ("t10k", 2)):
        header = b"".join(int(v).to_bytes(4, "big") for v in (0x803, n, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + digits[:n].tobytes())
        labels = bytes(i % 10 for i in range(n))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"".join(int(v).to_bytes(4, "big") for v in (0x801, n)) + labels)
    return digits
