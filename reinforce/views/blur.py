"""Blur: how wide a Gaussian three passes of a box stand for, and which box stands for a Gaussian.

Source: Gwosdek et al. 2011, extended boxes: `2 floor(radius) + 1` pixels and a share of the two beyond these.
"""

from __future__ import annotations

import math

from reinforce.views.params import MAX_BLUR, Q16


def box_radius(sigma: float) -> float:
    """Radius in pixels of the box that, applied three times, has the variance of a Gaussian."""
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + fraction


def blur_sigma(radius: float) -> float:
    """Standard deviation in pixels of three passes of a box: what `box_radius` was asked for."""
    whole = math.floor(radius)
    fraction, width = radius - whole, 2 * whole + 1
    variance = (width * whole * (whole + 1) + 6 * fraction * (whole + 1) ** 2) / (3 * width + 6 * fraction)
    return math.sqrt(3 * variance)


def scaled_radius(radius: int, scale: float) -> int:
    """The radius, in Q16, of a blur `scale` times as wide, up to the widest; a width is not proportional to its radius."""
    return min(MAX_BLUR, round(box_radius(blur_sigma(radius / Q16) * scale) * Q16))
