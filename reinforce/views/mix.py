"""Mix: MixUp and CutMix of the two members of a pair, in integers (FORMAT.md, "Pixel contract", "Mix").

Within a block, each view pairs the samples off: if b is a's partner, a is b's, with the same `lam` and the same box. Both
members of a pair stand in one batch, so that mixing costs no second decode. Sources: MixUp (arXiv 1710.09412), CutMix
(arXiv 1905.04899); names, `lam` and boxes as in timm, drawn for each pair instead of once for a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reinforce.policy import MixOptions
from reinforce.views import kernels
from reinforce.views.params import Field, PixelSpec

MIX_FIELDS = (Field.PARTNER, Field.LAM, Field.BOX_TOP, Field.BOX_LEFT, Field.BOX_HEIGHT, Field.BOX_WIDTH)
"""The columns that mixing adds to params, in order: always the last ones."""
WHOLE = 255
"""`lam` where MixUp does nothing."""


class Mixing(NamedTuple):
    """How each of n images is mixed with one of the others.

    Attributes:
        partner: int64 `[n]`, position of the partner; its own: nothing is mixed.
        lam: int64 `[n]`, share of the image itself in MixUp, of 255.
        boxes: int64 `[n, 4]`, top, left, height, width of what CutMix takes from the partner, pixels.
    """

    partner: np.ndarray
    lam: np.ndarray
    boxes: np.ndarray

    def take(self, positions: np.ndarray, partner: np.ndarray) -> Mixing:
        """The mixing of the images at `positions`; `partner` says anew which image each is mixed with."""
        return Mixing(partner, self.lam[positions], self.boxes[positions])

    def among(self, ok: np.ndarray) -> Mixing:
        """The mixing of the images at `ok` alone, int64 `[m]`: partners become positions in `ok`; m: no partner in it."""
        position = np.full(len(self.partner) + 1, len(ok))
        position[ok] = np.arange(len(ok))
        inside = (self.partner >= 0) & (self.partner < len(self.partner))
        return self.take(ok, position[np.where(inside, self.partner, len(self.partner))[ok]])

    def share(self, size: int) -> np.ndarray:
        """How much of each image's own hard label is left after mixing: float32 `[n]`, from `lam` and the area of the box."""
        area = self.boxes[:, 2] * self.boxes[:, 3] / (size * size)
        made: np.ndarray = (self.lam / WHOLE * (1 - area)).astype(np.float32)
        return made

    def fault(self, size: int) -> str | None:
        """Check a matching that was read from a file: says which partner is no pair or which value is out of range, or None."""
        own = np.arange(len(self.partner))
        if len(own) and not 0 <= self.partner.min() <= self.partner.max() < len(own):
            return f"partner {int(self.partner.max())} among {len(own)} samples"
        if np.any(self.partner[self.partner] != own):
            return f"sample {int(np.flatnonzero(self.partner[self.partner] != own)[0])} is not its partner's partner"
        if np.any(self.lam != self.lam[self.partner]) or np.any(self.boxes != self.boxes[self.partner]):
            return "two partners that are mixed differently"
        ends = self.boxes[:, :2] + self.boxes[:, 2:]
        if np.any((self.lam < 0) | (self.lam > WHOLE)) or np.any(self.boxes < 0) or np.any(ends > size):
            return "a share that is not within 0..255, or a box outside of the view"
        return None


def draw_mixing(pairs: np.random.Generator, amounts: np.random.Generator, count: int, options: MixOptions, size: int) -> Mixing:
    """Pair off `count` images and draw how each pair is mixed.

    Args:
        pairs: Generator of the matching.
        amounts: Generator of `lam` and boxes.
        count: Number of images; if it is odd, one image is not mixed.
        options: The policy's.
        size: Height and width of a view in pixels.
    """
    first, second = pairs.permutation(count)[: count // 2 * 2].reshape(-1, 2).T
    n = len(first)
    # Every random number is drawn for every pair, needed or not: so the values of one pair never depend on those of another.
    fires, fires_too, switch = amounts.random((3, n))
    shares = [amounts.beta(alpha, alpha, n) if alpha else np.ones(n) for alpha in (options.mixup, options.cutmix)]
    centres = amounts.integers(0, size, (2, n))
    cut = fires < options.mixup_prob
    up = fires_too < options.mixup_prob if options.both else cut
    if options.mixup and options.cutmix and not options.both:
        up, cut = cut & (switch >= options.mixup_switch_prob), cut & (switch < options.mixup_switch_prob)
    lam = np.where(up & bool(options.mixup), np.rint(WHOLE * shares[0]), WHOLE).astype(np.int64)
    sides = np.where(cut & bool(options.cutmix), (size * np.sqrt(1 - shares[1])).astype(np.int64), 0)
    starts = np.clip(centres - sides // 2, 0, size)
    lengths = np.clip(centres + sides // 2, 0, size) - starts
    box = np.concatenate([starts, lengths]).T
    box[lengths.min(axis=0) == 0] = 0
    mixed = (lam < WHOLE) | (box[:, 2] > 0)
    result = Mixing(np.arange(count), np.full(count, WHOLE), np.zeros((count, 4), np.int64))
    for member, other in ((first, second), (second, first)):
        result.partner[member[mixed]] = other[mixed]
        result.lam[member], result.boxes[member] = lam, box
    return result


def mixing_columns(mixing: Mixing) -> np.ndarray:
    """The params columns of a matching: int32 `[n, 6]`, in the order of `MIX_FIELDS`."""
    return np.column_stack([mixing.partner, mixing.lam, mixing.boxes]).astype(np.int32)


def read_mixing(params: np.ndarray, spec: PixelSpec) -> Mixing | None:
    """The matching in the params of one view of all samples of a block, int32 `[S, P]`; None where nothing is mixed."""
    pairs = pairs_in(params, spec)
    return None if pairs is None else mixing_of(pairs)


def pairs_in(params: np.ndarray, spec: PixelSpec) -> np.ndarray | None:
    """The columns of mixing among those of params, int32 `[S, P]` to `[S, 6]`; None where the layout has none."""
    columns = [column for field in MIX_FIELDS if (column := spec.column(field)) is not None]
    return params[:, columns] if columns else None


def mixing_of(pairs: np.ndarray) -> Mixing:
    """The matching in the columns of mixing, int32 `[S, 6]`, in the order of `MIX_FIELDS`."""
    values = pairs.astype(np.int64)
    return Mixing(values[:, 0], values[:, 1], values[:, 2:])


def mix(images: np.ndarray, mixing: Mixing) -> np.ndarray:
    """Mix a batch that holds both members of each pair.

    Args:
        images: uint8 `[n, 3, H, W]`.
        mixing: Partners as positions in the batch.

    Returns:
        uint8 `[n, 3, H, W]`: `(lam a + (255 - lam) b + 127) div 255`, then b's own pixels within the box.
    """
    result = images.copy()
    for i in np.flatnonzero(mixing.partner != np.arange(len(mixing.partner))).tolist():
        own, other, lam = images[i], images[mixing.partner[i]], int(mixing.lam[i])
        if lam < WHOLE and kernels.compiled is not None:
            kernels.compiled.mix(np.ascontiguousarray(own), result[i], np.ascontiguousarray(other), own.size, lam)
        elif lam < WHOLE:
            total = own * np.int32(lam)
            total += other * np.int32(WHOLE - lam)
            total += WHOLE // 2
            total *= 32897  # this factor and the shift below divide by 255, exactly, for every value of 16 bits
            total >>= 23
            result[i] = total
        top, left, height, width = mixing.boxes[i].tolist()
        result[i, :, top : top + height, left : left + width] = other[:, top : top + height, left : left + width]
    return result
