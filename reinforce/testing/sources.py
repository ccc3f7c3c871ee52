"""The laws of a source: its index is always the same, and so are its bytes, in any order and from any process or thread."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader, Dataset

from reinforce.errors import ImageError
from reinforce.sources.source import Source
from reinforce.testing.law import require
from reinforce.views.decode import decode


def check_source(open_again: Callable[[], Source], workers: int = 2, method: str | None = None) -> None:
    """Check that a source keeps its laws.

    Keys are unique, labels are class ids; opened again, it has the same index; bytes are the same in any order, from threads,
    from other processes and from a part of the source (`take`); every image decodes.

    Args:
        open_again: Opens the source; called more than once.
        workers: Processes that read it; 0: reading from processes is not checked.
        method: How these processes are started, `fork`, `spawn` or `forkserver`; None: Python's default.

    Raises:
        AssertionError: names the broken law.
    """
    source = open_again()
    said, count = f"{type(source).__name__} {source.location}", len(source)
    require(count >= 1, f"{said}: has no samples")
    require(len(source.keys) == count and len(set(source.keys)) == count, f"{said}: keys are not unique, one per sample")
    _check_labels(source, said)
    again = open_again()
    require(again.index_sha256() == source.index_sha256(), f"{said}: opened again it has another index")
    hashes = [_hash(source.read(i)) for i in range(count)]
    backwards = [_hash(again.read(i)) for i in range(count - 1, -1, -1)]
    require(backwards[::-1] == hashes, f"{said}: bytes depend on the order of reading")
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda i: _hash(source.read(i)), range(count)))
    require(threaded == hashes, f"{said}: bytes differ when threads read")
    for i in range(count):
        try:
            decode(source.read(i))
        except ImageError as error:
            raise AssertionError(f"{said}: {source.keys[i]} is no image: {error.what}") from error
    picked = sorted({0, count // 2, count - 1}, reverse=True)
    part = source.take(picked)
    require([part.keys[i] for i in range(len(part))] == [source.keys[i] for i in picked], f"{said}: `take` has other keys")
    require([_hash(part.read(i)) for i in range(len(part))] == [hashes[i] for i in picked], f"{said}: `take` has other bytes")
    require(_hash(copy.deepcopy(source).read(0)) == hashes[0], f"{said}: a copy reads other bytes")
    if workers:
        loader = DataLoader(_Hashes(source), batch_size=None, num_workers=workers, multiprocessing_context=method)
        require(list(loader) == hashes, f"{said}: bytes differ when other processes read")


def _check_labels(source: Source, said: str) -> None:
    both = (source.labels is None) == (not source.class_names)
    require(both, f"{said}: labels and class names are not both there, or both not")
    if source.labels is not None:
        inside = all(0 <= label < len(source.class_names) for label in source.labels)
        require(len(source.labels) == len(source) and inside, f"{said}: labels are not class ids, one per sample")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Hashes(Dataset[str]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> str:
        return _hash(self.source.read(index))
