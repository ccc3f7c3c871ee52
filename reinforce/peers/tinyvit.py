"""The files of TinyViT: `logits_top{K}_epoch{e}/rank{r}-keys.txt` and `-values.bin`, read for `import`, without params.

For each line of keys there is a record: int32 seed, int16 `[K]` class ids, float16 `[K]` probabilities. Only the authors' fork
of timm can make the views from the seeds. A key of digits is the number of an image, counted as torchvision's ImageFolder does;
its writer makes such keys of ImageNet-1k. Of ImageNet-22k they are the images' names, without folder and suffix. Source: Wu et
al. 2022, arXiv 2207.10666, and its published code and files.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reinforce.errors import StoreError
from reinforce.labels.topk import TopK
from reinforce.peers.epoch_files import EpochFiles, Rows
from reinforce.peers.reader import PeerEntry, PeerViews, Reader, ReadOptions, bad_labels, check_top
from reinforce.settings import Origin
from reinforce.views.draw import draw
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import view_rng

_AT_ONCE = 64 << 20  # bytes of records
_FOLDER = re.compile(r"logits_top(\d{1,4})_epoch(\d{1,5})")


class TinyVitReader(Reader):
    """See `reinforce.peers.reader.Reader`; one view per epoch. Samples that are not in every epoch are left out."""

    format = "tinyvit"
    counted = True
    codec: TopK

    def __init__(self, path: Path, num_classes: int, teachers: list[str], size: int = 224, scratch: Path | None = None) -> None:
        found = [(int(m[2]), int(m[1]), p) for p in path.iterdir() if (m := _FOLDER.fullmatch(p.name))] if path.is_dir() else []
        if not found or len({k for _, k, _ in found}) != 1:
            raise StoreError(
                f"There are no labels in {path}.",
                found=", ".join(p.name for _, _, p in found[:3]) or "no such folders",
                expected="folders logits_topK_epochE, all of one K",
                fix="check the path; these files are read in place, not from a tar",
            )
        self.k = found[0][1]
        self.num_classes, self.size, self.teachers, self.views = num_classes, size, teachers, len(found)
        self.codec, self.policy = TopK(self.k), parse_policy("whole")
        self.record = 4 + 4 * self.k
        self.epochs = [EpochFiles(folder, self.record) for _, _, folder in sorted(found)]
        self.scratch = scratch
        self.origin = Origin(
            format=self.format, pixels="a fork of timm, from seeds", replay="none", options={"k": self.k, "size": size}
        )

    @classmethod
    def open(cls, path: Path, given: ReadOptions) -> TinyVitReader:
        return cls(path, given.num_classes, given.names, given.size, given.scratch)

    def entries(self) -> Iterator[PeerEntry]:
        folder = self.scratch if self.scratch is not None and self.scratch.is_dir() else None
        with tempfile.TemporaryFile(dir=folder) as file:
            yield from self._entries(Rows(self.epochs, file))

    def _entries(self, rows: Rows) -> Iterator[PeerEntry]:
        many = max(1, _AT_ONCE // (self.record * self.views))
        for begin in range(0, len(rows.names), many):
            kept = rows.whole[begin : begin + many]
            names = rows.names[begin : begin + many][kept]
            parts = [epoch.read(rows.of(e, begin, begin + len(kept))[kept]) for e, epoch in enumerate(self.epochs)]
            records = np.stack(parts, axis=1)
            for name, record in zip(names.tolist(), records, strict=True):
                yield PeerEntry(_which(name), record.tobytes())

    def parse(self, content: bytes, width: int, height: int) -> PeerViews:
        rows = np.frombuffer(content, np.uint8).reshape(self.views, self.record)
        ids = np.ascontiguousarray(rows[:, 4 : 4 + 2 * self.k]).view("<i2")
        probs = np.ascontiguousarray(rows[:, 4 + 2 * self.k :]).view("<f2")
        ids, probs = check_top(ids.astype(np.int64) & 0xFFFF, probs, self.num_classes)
        whole = draw(view_rng(0, 0, 0), self.policy, self.size, width, height)
        return PeerViews(np.tile(whole, (self.views, 1)), self.codec.pack(ids, probs, self.num_classes))


def _which(key: bytes) -> str | int:
    try:
        name = key.decode().strip()
    except UnicodeDecodeError:
        raise bad_labels(f"a key {key!r}"[:80]) from None
    if name.isascii() and name.isdigit() and len(name) < 12 and str(int(name)) == name:
        return int(name)
    return name.rpartition(".")[0] or name
