"""A policy that mixes, and matchings drawn from it."""

from __future__ import annotations

import numpy as np

from reinforce.policy import MixOptions
from reinforce.views.mix import Mixing, draw_mixing

USI = MixOptions(mixup=0.8, cutmix=1.0)
POLICY = "rrc-ra:mixup=0.8,cutmix=1"


def drawn(seed: int, count: int, options: MixOptions = USI, size: int = 224) -> Mixing:
    return draw_mixing(np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1]), count, options, size)
