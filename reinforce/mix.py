"""Mix: MixUp and CutMix of the two members of a pair, in integers (FORMAT.md, "Pixel contract", 5).

Within a block, each view pairs the samples off: if b is a's partner, a is b's, with the same `lam` and the same box. Both
members of a pair stand in one batch, so that mixing costs no second decode.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MixOptions:
    """How the pairs of a view are mixed; options keep timm's names.

    Attributes:
        mixup: alpha of MixUp's Beta distribution; 0: no MixUp.
        cutmix: alpha of CutMix's Beta distribution; 0: no CutMix.
        mixup_prob: Probability that a pair is mixed at all.
        mixup_switch_prob: Probability of CutMix instead of MixUp where both are on.
        both: MixUp and CutMix are decided independently, each with `mixup_prob`, and may both happen (ImageNet+).
        repeats: So many consecutive views share their pairs, with a `lam` and box of their own (repeated augmentation).
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    both: bool = False
    repeats: int = 1
