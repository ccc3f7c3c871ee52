"""Preview: a small parquet table of a reinforced dataset, without pixels, which the viewers of data hosts can show."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reinforce.labels.sparse import SparseLabels
from reinforce.store.store import Store
from reinforce.views.params import Field

SAMPLES, VIEWS, TOP = 100, 3, 5
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("label", pa.string()),
        pa.field("view", pa.int32()),
        pa.field("top5_classes", pa.list_(pa.string())),
        pa.field("top5_probabilities", pa.list_(pa.float32())),
        pa.field("crop_top", pa.int32()),
        pa.field("crop_left", pa.int32()),
        pa.field("crop_height", pa.int32()),
        pa.field("crop_width", pa.int32()),
        pa.field("image_height", pa.int32()),
        pa.field("image_width", pa.int32()),
    ]
)


def preview(store: Store) -> bytes:
    """The table as parquet: up to 100 samples, evenly spread, with up to 3 views each."""
    names, ok = class_names(store), store.ok_samples
    chosen = ok[np.linspace(0, len(ok) - 1, min(SAMPLES, len(ok))).astype(int)]
    box = [store.spec.fields.index(f) for f in (Field.CROP_TOP, Field.CROP_LEFT, Field.CROP_HEIGHT, Field.CROP_WIDTH)]
    rows = []
    for sample in chosen.tolist():
        width, height = store.samples.width_height[sample].tolist()
        hard = int(store.samples.labels[sample])
        for view in range(min(VIEWS, store.settings.views)):
            label = SparseLabels.stack([store.label_of(sample, view)], store.settings.num_classes).dense()[0].numpy()
            top = np.argsort(-label, kind="stable")[:TOP]
            crop = store.params_of(sample, view)[box].tolist()
            own = (store.samples.key(sample), names[hard] if 0 <= hard < len(names) else None, view)
            rows.append((*own, [names[c] for c in top], label[top].tolist(), *crop, height, width))
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def class_names(store: Store) -> list[str]:
    """A name for every class: the source's, WordNet ids in words; else ImageNet's for 1000 classes, or numbers."""
    from timm.data import ImageNetInfo  # a tenth of a second

    given, count = store.settings.source.class_names, store.settings.num_classes
    imagenet = ImageNetInfo("imagenet-1k")
    by_wnid = {wnid: imagenet.index_to_description(i) for i, wnid in enumerate(imagenet.label_names())}
    if given:
        return [by_wnid.get(name, name) for name in given]
    return list(by_wnid.values()) if count == len(by_wnid) else [str(c) for c in range(count)]
