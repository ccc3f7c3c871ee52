"""Erase: the noise that fills an erased rectangle (timm's mode `pixel`), a function of a stored seed.

timm draws standard normal noise after normalisation; as uint8 that is noise with the mean and deviation of ImageNet's channels.
It is computed with integers alone (FORMAT.md, "Pixel contract"), so that it is the same on every machine.
"""

from __future__ import annotations

import numpy as np

_MEAN = np.array([8105165, 7620526, 6784942], np.int64)  # 255 x ImageNet mean, Q16
_GAIN = np.array([18309, 17909, 17989], np.int64)  # 255 x ImageNet std over the deviation of a sum of eight bytes, Q16
_MIDDLE = 1020  # mean of a sum of eight bytes


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Noise that fills an erased rectangle: uint8 `[height, width, 3]`."""
    counter = np.arange(height * width * 3, dtype=np.uint64) + (np.uint64(seed) << np.uint64(32))
    z = counter * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    total = z.view(np.uint8).reshape(height, width, 3, 8).sum(axis=3, dtype=np.int64)
    pixels: np.ndarray = np.clip((_MEAN + _GAIN * (total - _MIDDLE) + (1 << 15)) >> 16, 0, 255).astype(np.uint8)
    return pixels
