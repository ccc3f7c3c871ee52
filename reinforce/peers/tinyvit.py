"""The files of TinyViT: `logits_top{K}_epoch{e}/rank{r}-keys.txt` and `-values.bin`, read for `import`, without params.

For each line of keys there is a record: int32 seed, int16 `[K]` class ids, float16 `[K]` probabilities. Only the authors' fork
of timm can make the views from the seeds. Source: Wu et al. 2022, arXiv 2207.10666, and its published files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reinforce.errors import StoreError
from reinforce.labels.topk import TopK
from reinforce.peers.reader import PeerEntry, PeerViews, Reader, ReadOptions, bad_labels, check_top
from reinforce.settings import Origin
from reinforce.views.draw import draw
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import view_rng

_FOLDER = re.compile(r"logits_top(\d{1,4})_epoch(\d{1,5})")
_MAX_KEYS = 2 << 30


class TinyVitReader(Reader):
    """See `reinforce.peers.reader.Reader`; one view per epoch. Samples that are not in every epoch are left out."""

    format = "tinyvit"
    codec: TopK

    def __init__(self, path: Path, num_classes: int, teachers: list[str], size: int = 224) -> None:
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
        self.epochs = [self._epoch(folder) for _, _, folder in sorted(found)]
        self.origin = Origin(
            format=self.format, pixels="a fork of timm, from seeds", replay="none", options={"k": self.k, "size": size}
        )

    @classmethod
    def open(cls, path: Path, given: ReadOptions) -> TinyVitReader:
        return cls(path, given.num_classes, given.names, given.size)

    def __getstate__(self) -> dict[str, object]:
        # For worker processes that are not forked: they only parse records. Pickling the memory maps would send whole files.
        return {**self.__dict__, "epochs": []}

    def _epoch(self, folder: Path) -> dict[str, tuple[np.ndarray, int]]:
        """Key to the file that has its record, memory-mapped as uint8 `[n, bytes]`, and the row of the record in it."""
        places: dict[str, tuple[np.ndarray, int]] = {}
        for keys in sorted(folder.glob("rank*-keys.txt")):
            values = keys.with_name(keys.name.replace("-keys.txt", "-values.bin"))
            if keys.stat().st_size > _MAX_KEYS or not values.is_file():
                raise bad_labels(f"{keys} without its values")
            names = keys.read_text().splitlines()
            if values.stat().st_size != len(names) * self.record:
                raise bad_labels(f"{values}: {values.stat().st_size} bytes for {len(names)} records of {self.record}")
            if names:
                records = np.memmap(values, np.uint8, "r").reshape(len(names), self.record)
                places |= {name.strip().rpartition(".")[0] or name.strip(): (records, i) for i, name in enumerate(names)}
        return places

    def entries(self) -> Iterator[PeerEntry]:
        for key in self.epochs[0]:
            if all(key in epoch for epoch in self.epochs):
                yield PeerEntry(key, b"".join(records[row].tobytes() for records, row in (epoch[key] for epoch in self.epochs)))

    def parse(self, content: bytes, width: int, height: int) -> PeerViews:
        rows = np.frombuffer(content, np.uint8).reshape(self.views, self.record)
        ids = np.ascontiguousarray(rows[:, 4 : 4 + 2 * self.k]).view("<i2")
        probs = np.ascontiguousarray(rows[:, 4 + 2 * self.k :]).view("<f2")
        ids, probs = check_top(ids.astype(np.int64) & 0xFFFF, probs, self.num_classes)
        whole = draw(view_rng(0, 0, 0), self.policy, self.size, width, height)
        return PeerViews(np.tile(whole, (self.views, 1)), self.codec.pack(ids, probs, self.num_classes))
