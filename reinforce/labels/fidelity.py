"""Fidelity: how far decoded soft labels are from the ones that were encoded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from reinforce.labels.codec import Codec, decode_stripes
from reinforce.labels.sparse import SparseLabel, SparseLabels


class Fidelity(NamedTuple):
    """Errors of the decoded labels of one sample with V views.

    Attributes:
        kl: KL(teacher || decoded) of each view in nats, float64 `[V]`; infinite where more than a millionth of the teacher's
            mass is decoded as zero.
        total_variation: Half the L1 distance of each view, float64 `[V]`.
        top1_bias: Decoded minus true probability of the teacher's top class of each view, float64 `[V]`.
        entropy_bias: Decoded minus true entropy of each view in nats, float64 `[V]`; above 0: decoded labels are softer.
        same_top: Whether the decoded top class of each view is the teacher's, of equal ones the lowest id, bool `[V]`.
        image_bias: L1 norm of the mean over the views of (decoded - true) probabilities: the error that remains when errors
            of single views average out.
    """

    kl: np.ndarray
    total_variation: np.ndarray
    top1_bias: np.ndarray
    entropy_bias: np.ndarray
    same_top: np.ndarray
    image_bias: float


def compare(labels: list[SparseLabel], probs: np.ndarray) -> Fidelity:
    """Compare decoded labels of the views of a sample with the true ones, float32 `[V, C]`."""
    true = torch.from_numpy(np.ascontiguousarray(probs)).double()
    true /= true.sum(dim=1, keepdim=True)
    decoded = SparseLabels.stack(labels, true.shape[1]).dense().double()
    top = true.argmax(dim=1, keepdim=True)
    difference = decoded - true
    # Tiny mass that a half float rounds to zero is ignored; more than a millionth of dropped mass makes KL infinite.
    possible = decoded > 0
    kl = torch.where(possible, torch.xlogy(true, true / decoded), 0.0).sum(dim=1).clamp(min=0)
    kl[torch.where(possible, 0.0, true).sum(dim=1) > 1e-6] = torch.inf
    return Fidelity(
        kl=kl.numpy(),
        total_variation=difference.abs().sum(dim=1).numpy() / 2,
        top1_bias=difference.gather(1, top)[:, 0].numpy(),
        entropy_bias=(torch.special.entr(decoded) - torch.special.entr(true)).sum(dim=1).numpy(),
        same_top=(decoded.argmax(dim=1) == top[:, 0]).numpy(),
        image_bias=float(difference.mean(dim=0).abs().sum()),
    )


def measure(codec: Codec, records: bytes | list[bytes], answers: np.ndarray, stripe_views: int | None = None) -> Fidelity:
    """Decode what `codec.encode(answers)` or `encode_stripes(codec, answers, stripe_views)` gave, and compare."""
    probs = codec.probabilities(answers)
    views, classes = probs.shape
    records = [records] if isinstance(records, bytes) else records
    return compare(decode_stripes(codec, records, views, classes, stripe_views or views), probs)
