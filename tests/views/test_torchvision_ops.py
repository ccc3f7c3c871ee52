"""Torchvision's ops, at both signs, against torchvision's own functions: which way a picture moves is theirs to say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode

from reinforce.views.operations import OPERATIONS
from reinforce.views.params import Op
from reinforce.views.torchvision_ops import TORCHVISION_OPS, torchvision_magnitude, torchvision_slot
from tests.conftest import REAL_DATA, picture

pytestmark = pytest.mark.unit

THEIRS = REAL_DATA / "peers" / "mldr" / "theirs.npz"
SIZE = 96
IMAGE = np.array(picture(3, SIZE, SIZE))


def magnitudes(space: dict[str, tuple[object, bool]], bins: list[int]) -> list[tuple[int, str, float]]:
    """Number, name and signed magnitude of each op."""
    found = []
    for number, (name, (values, signed)) in enumerate(space.items()):
        each = {float(values[b]) for b in bins} if values.ndim else {0.0}  # type: ignore[attr-defined]
        found += [(number, name, sign * value) for value in sorted(each) for sign in ((1, -1) if signed else (1,))]
    return found


def ours(number: int, magnitude: float, image: np.ndarray) -> np.ndarray:
    """The op on uint8 `[H, W, 3]`, as int64."""
    op, interpolation, a, b = torchvision_slot(TORCHVISION_OPS[number], magnitude, image.shape[0])
    channels_first = np.ascontiguousarray(image.transpose(2, 0, 1))
    return OPERATIONS[op].kernel(channels_first, interpolation, a, b, (0, 0, 0)).transpose(1, 2, 0).astype(int)


@pytest.mark.parametrize(("number", "name", "magnitude"), [
    *magnitudes(transforms.RandAugment(2, 9)._augmentation_space(31, (SIZE, SIZE)), [9]),
    *magnitudes(transforms.TrivialAugmentWide()._augmentation_space(31), [3, 29]),
])  # fmt: skip
def test_every_op_at_either_sign_is_torchvisions(number: int, name: str, magnitude: float) -> None:
    theirs = np.asarray(_apply_op(Image.fromarray(IMAGE), name, magnitude, InterpolationMode.NEAREST, [0.0] * 3)).astype(int)
    difference = np.abs(ours(number, magnitude, IMAGE) - theirs)
    moved = OPERATIONS[TORCHVISION_OPS[number]].geometric
    # A pixel whose source lies on the boundary of two may be either of them; all others are equal, or one apart in blends.
    assert (difference.max(axis=2) > 0).mean() < 0.005 if moved else difference.max() <= 1
    assert difference.mean() < 0.3


@pytest.mark.skipif(not THEIRS.is_file(), reason="no files of the peers beside the checkout")
def test_every_op_at_either_sign_gives_the_pixels_that_the_peer_saw() -> None:
    theirs = np.load(THEIRS)
    image, seen = theirs["op.image"].transpose(1, 2, 0), set()
    for number, magnitude, pixels in zip(theirs["op.number"], theirs["op.magnitude"], theirs["op.pixels_pil"], strict=True):
        difference = np.abs(ours(int(number), float(magnitude), image) - pixels.transpose(1, 2, 0))
        assert difference.max() <= 1, TORCHVISION_OPS[number]
        assert difference.mean() < 0.05, TORCHVISION_OPS[number]
        seen.add((int(number), bool(magnitude < 0)))
    assert len(seen) == 14 + 9


@pytest.mark.parametrize("op", TORCHVISION_OPS)
def test_a_slot_becomes_a_magnitude_that_becomes_the_same_slot(op: Op) -> None:
    rng = np.random.default_rng(0)
    drawn = {
        Op.POSTERIZE: range(9), Op.SOLARIZE: range(257), Op.TRANSLATE_X: range(-101, 102), Op.TRANSLATE_Y: range(-101, 102),
        Op.ROTATE: [9.0, -9.0, 0.0, 90.0, *rng.uniform(-180, 180, 2000)],
    }.get(op, [0.0, *rng.uniform(-0.99, 0.99, 200)])  # fmt: skip
    for magnitude in drawn:
        slot = torchvision_slot(op, float(magnitude), 224)
        back = torchvision_magnitude(op, slot[2], slot[3], 224)
        assert torchvision_slot(op, back, 224) == slot


def test_a_slot_becomes_the_shortest_magnitude() -> None:
    for op, magnitude in (
        (Op.ROTATE, -9.0),
        (Op.SHEAR_X, 0.09),
        (Op.COLOR, -0.27),
        (Op.TRANSLATE_X, 30.0),
        (Op.SOLARIZE, 179.0),
    ):
        _, _, a, b = torchvision_slot(op, magnitude, 224)
        assert torchvision_magnitude(op, a, b, 224) == magnitude


@pytest.mark.parametrize(("op", "a", "b"), [(Op.ROTATE, 0, 0), (Op.TRANSLATE_X, 1, 0), (Op.COLOR, 65536, 1)])
def test_a_slot_that_no_magnitude_gives_is_refused(op: Op, a: int, b: int) -> None:
    with pytest.raises(ValueError, match=op.name):
        torchvision_magnitude(op, a, b, 224)
