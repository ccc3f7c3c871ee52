"""Codec bench: what a codec costs and what it loses, on the logits of a real teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from reinforce.errors import DataError, UsageError
from reinforce.labels.codecs import NAMED_CODECS, parse_codec
from reinforce.labels.fidelity import Fidelity, compare
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.views.seeds import choice_rng

DEFAULT = (*NAMED_CODECS, "topk:5", "topk:10", "topk:20")
_BATCH = 256
_REPEATS = 5
_RANDOM_IMAGES, _RANDOM_VIEWS = 8, 64


def load_probs(path: Path, views: int | None = None, top1: float | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Softmax of stored logits.

    Args:
        path: A numpy .npz file with an array `logits` `[images, views, classes]`.
        views: Use only this many views, the first ones.
        top1: Divide the logits by the temperature that gives this mean top-1 probability.

    Returns:
        float32 `[images, views, classes]`, and their sizes, temperature and mean top-1 probability.

    Raises:
        DataError: there is no such file or array, or values are not finite.
        UsageError: no temperature gives this top-1 probability.
    """
    try:
        with open(path, "rb") as file:
            arrays = np.load(file)
            logits = arrays["logits"] if isinstance(arrays, np.lib.npyio.NpzFile) else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise _unreadable(path, str(error)) from None
    if logits is None or logits.ndim != 3 or not logits.size or logits.dtype.kind != "f":
        raise _unreadable(path, "no array" if logits is None else f"{logits.dtype} {list(logits.shape)}")
    logits = logits[:, :views]
    if not np.isfinite(logits).all():
        raise _unreadable(path, "NaN or infinity among the logits")
    temperature = 1.0 if top1 is None else _temperature(logits, top1)
    probs = np.stack([_softmax(image, temperature) for image in logits])
    about = dict(zip(("images", "views", "classes"), probs.shape, strict=True))
    return probs, {**about, "temperature": round(temperature, 4), "mean_top1": round(float(probs.max(axis=-1).mean()), 4)}


def random_probs(classes: int, views: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Made-up probabilities of a few images for any number of classes, to measure times: their errors are of no teacher.

    The views of an image share fifty likely classes and differ in which is the likeliest; the others have all classes a little.

    Returns:
        float32 `[images, views, classes]`, 64 views by default, and what `load_probs` says of its own.
    """
    rng, images = choice_rng(0), []
    for _ in range(_RANDOM_IMAGES):
        logits = np.repeat(rng.normal(-4, 1, (1, classes)), views or _RANDOM_VIEWS, axis=0)
        own = rng.choice(classes, min(classes, 50), replace=False)
        logits[:, own] += rng.normal(0, 1.5, (len(logits), len(own))) + np.linspace(12, 6, len(own))
        images.append(_softmax(logits, 1.0))
    probs = np.stack(images)
    sizes = dict(zip(("images", "views", "classes"), probs.shape, strict=True))
    return probs, {**sizes, "temperature": 1.0, "mean_top1": round(float(probs.max(axis=-1).mean()), 4)}


def _unreadable(path: Path, found: str) -> DataError:
    return DataError(
        f"{path} holds no logits.",
        found=found,
        expected="a numpy .npz file with a float array `logits` [images, views, classes]",
        fix="np.savez_compressed('logits.npz', logits=logits)",
    )


def _softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    values = logits.astype(np.float64) / temperature
    values = np.exp(values - values.max(axis=-1, keepdims=True))
    made: np.ndarray = (values / values.sum(axis=-1, keepdims=True)).astype(np.float32)
    return made


def _temperature(logits: np.ndarray, top1: float) -> float:
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        mean = np.mean([_softmax(image, middle).max(axis=-1).mean() for image in logits])
        low, high = (middle, high) if mean > top1 else (low, middle)
    if not abs(mean - top1) < 1e-3:
        raise UsageError(f"No temperature gives a mean top-1 probability of {top1}.", found=f"{mean:.3f} at best")
    return middle


def bench(name: str, probs: np.ndarray) -> list[dict[str, Any]]:
    """Measure one codec. `topk` is measured twice: with its remainder spread evenly, and with it dropped, as many others do.

    Returns:
        One or two rows: `codec`, `remainder` (spread or dropped), `bytes_per_view` (all bytes of the records), `kl` and
        `kl_p99` (of KL(teacher || decoded), nats; null: infinite), `total_variation` (half the L1 distance), `same_top` (share
        of the views), `top1_bias`, `entropy_bias` and `image_bias` (see `fidelity.Fidelity`), `encode_ms` (for a record),
        `decode_us` (for one view from its record), `dense_us` (for one row of a batch of 256, collated and made dense on the
        CPU).
    """
    codec = parse_codec(name)
    images, views, classes = probs.shape
    records: list[bytes] = []
    encode = _fastest(lambda: records.append(codec.encode(probs[len(records) % images])), images, repeats=1)
    labels = [codec.decode_all(record, views, classes) for record in records]
    turns = _cycle(images, views)
    decode = _fastest(lambda: codec.decode(records[(turn := next(turns))[0]], turn[1], views, classes), max(200, images))
    batch = [label for rows in labels for label in rows][:: max(1, images * views // _BATCH)][:_BATCH]
    dense = _fastest(lambda: SparseLabels.stack(batch, classes).dense(), 3)
    costs = {
        "bytes_per_view": sum(map(len, records)) / (images * views),
        "encode_ms": 1e3 * encode,
        "decode_us": 1e6 * decode,
        "dense_us": 1e6 * dense / len(batch),
    }
    rows = [{"codec": name, "remainder": "spread", **_losses(labels, probs), **costs}]
    if codec.drops_remainder:
        rows.append({"codec": name, "remainder": "dropped", **_losses([_dropped(r) for r in labels], probs), **costs})
    return rows


def _dropped(labels: list[SparseLabel]) -> list[SparseLabel]:
    return [SparseLabel(ids, values / values.sum(), 0.0) for ids, values, *_ in labels]


def _losses(labels: list[list[SparseLabel]], probs: np.ndarray) -> dict[str, Any]:
    each: list[Fidelity] = [compare(rows, true) for rows, true in zip(labels, probs, strict=True)]
    kl = np.concatenate([f.kl for f in each])
    return {
        "kl": _finite(kl.mean()),
        "kl_p99": _finite(np.quantile(kl, 0.99, method="higher")),
        "total_variation": float(np.concatenate([f.total_variation for f in each]).mean()),
        "same_top": float(np.concatenate([f.same_top for f in each]).mean()),
        "entropy_bias": float(np.concatenate([f.entropy_bias for f in each]).mean()),
        "top1_bias": float(np.concatenate([f.top1_bias for f in each]).mean()),
        "image_bias": float(np.mean([f.image_bias for f in each])),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _cycle(images: int, views: int) -> Iterator[tuple[int, int]]:
    turn = 0
    while True:
        yield turn % images, (7 * turn) % views
        turn += 1


def _fastest(work: Callable[[], object], times: int, repeats: int = _REPEATS) -> float:
    """Seconds of one call: the lowest of some repeats, because other work on the machine can only add time."""
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(times):
            work()
        best = min(best, (time.perf_counter() - start) / times)
    return best


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        (
            "| codec | remainder | B/view | KL mean | KL p99 | total variation | top class kept | top-1 bias | entropy bias "
            "| bias of an image | encode ms/record | decode us/view | dense us/view |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        kl, p99 = ("inf" if r[k] is None else f"{r[k]:.4f}" for k in ("kl", "kl_p99"))
        lines.append(
            f"| {r['codec']} | {r['remainder']} | {r['bytes_per_view']:.2f} | {kl} | {p99} | {r['total_variation']:.4f} "
            f"| {100 * r['same_top']:.2f} % | {r['top1_bias']:+.1e} | {r['entropy_bias']:+.4f} | {r['image_bias']:.4f} "
            f"| {r['encode_ms']:.2f} | {r['decode_us']:.1f} | {r['dense_us']:.1f} |"
        )
    return "\n".join(lines)
