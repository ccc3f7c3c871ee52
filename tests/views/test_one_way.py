"""One-way mixing and padded crops: pixels against plain arithmetic and torchvision, and layouts that are broken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import functional as F

from reinforce.errors import StoreError, UsageError
from reinforce.policy import Policy
from reinforce.views.apply import apply
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.one_way import ALONE, ONE_WAY_FIELDS, one_way_view, share_of
from reinforce.views.params import OTHER_BASE, Q16, Field, PixelSpec
from reinforce.views.policy_text import parse_policy
from reinforce.views.rescale import rescale
from reinforce.views.seeds import view_rng
from tests.conftest import picture

pytestmark = pytest.mark.unit

SIZE = 16
POLICY = Policy(name="imagenet-plus-m-r", partners="any", reprob=1.0)
SPEC = pixel_spec(POLICY, SIZE)
OWN, OTHER = (np.array(picture(number, 50, 41)) for number in (1, 2))


def mixed_params(seed: int, lam: int, box: tuple[int, int, int, int]) -> np.ndarray:
    alone = [draw(view_rng(seed, which, 0), POLICY, SIZE, 50, 41) for which in (0, 1)]
    return np.concatenate([alone[0], np.array([5, lam, *box], np.int32), alone[1]])


@given(st.integers(0, 99), st.integers(0, Q16), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))
def test_a_mixed_view_is_what_plain_arithmetic_gives(seed: int, lam: int, top: int, left: int, height: int, width: int) -> None:
    params = mixed_params(seed, lam, (top, left, height, width))
    plain = pixel_spec(POLICY.fresh.model_copy(update={"mixup": 0.0, "cutmix": 0.0}), SIZE)
    columns = len(plain.fields)
    own, other = apply(OWN, params[:columns], plain).tolist(), apply(OTHER, params[-columns:], plain).tolist()
    found = one_way_view(OWN, params, SPEC, {5: OTHER}.__getitem__).tolist()
    for y, x in ((0, 0), (top, left), (top + height - 1, left + width - 1), (SIZE - 1, SIZE - 1), (7, 9)):
        a, b = own[1][y][x], other[1][y][x]
        pasted = top <= y < top + height and left <= x < left + width
        assert found[1][y][x] == (b if pasted else (lam * a + (Q16 - lam) * b + Q16 // 2) // Q16)
    assert share_of(params, SPEC) == pytest.approx(lam / Q16 * (1 - height * width / SIZE**2))


def test_a_view_that_is_alone_needs_no_other_image() -> None:
    params = mixed_params(3, Q16, (0, 0, 0, 0))
    params[SPEC.column(Field.OTHER)] = ALONE
    none: dict[int, np.ndarray] = {}
    assert one_way_view(OWN, params, SPEC, none.__getitem__).equal(apply(OWN, params, SPEC))
    assert share_of(params, SPEC) == 1


@pytest.mark.parametrize(
    ("lam", "box", "match"),
    [
        (-1, (0, 0, 0, 0), "a share"),
        (Q16 + 1, (0, 0, 0, 0), "a share"),
        (9, (9, 0, 8, 1), "outside"),
        (9, (0, -1, 2, 2), "outside"),
    ],
)
def test_what_cannot_be_mixed_is_refused(lam: int, box: tuple[int, int, int, int], match: str) -> None:
    with pytest.raises(StoreError, match=match):
        one_way_view(OWN, mixed_params(0, lam, box), SPEC, {5: OTHER}.__getitem__)


def test_both_views_and_the_rectangle_are_rescaled() -> None:
    params = mixed_params(3, 20000, (2, 3, 4, 5))
    twice = rescale(params, SPEC, 2 * SIZE)
    assert [twice[SPEC.column(f)] for f in ONE_WAY_FIELDS] == [5, 20000, 4, 6, 8, 10]
    for field in (Field.ERASE_TOP, Field.ERASE_LEFT, Field.ERASE_HEIGHT, Field.ERASE_WIDTH):
        for base in (0, OTHER_BASE):
            assert twice[SPEC.column(base + field)] == 2 * params[SPEC.column(base + field)]
    assert one_way_view(OWN, twice, replace(SPEC, size=2 * SIZE), {5: OTHER}.__getitem__).shape == (3, 2 * SIZE, 2 * SIZE)


CROP, MIX = (1, 2, 3, 4), tuple(map(int, ONE_WAY_FIELDS))
THEIRS = tuple(OTHER_BASE + f for f in CROP)


@pytest.mark.parametrize(
    "fields",
    [
        (*CROP, *MIX), (*CROP, *THEIRS), (*CROP, *MIX[1:], *THEIRS), (*CROP, *MIX, *THEIRS[1:]), (*CROP, *MIX, *THEIRS, 144),
        (*CROP, *MIX, *THEIRS, 139), (*CROP, *MIX, *THEIRS, 143), (*CROP, *MIX, *THEIRS, 161), (*CROP, *MIX, *THEIRS, 150),
        (*CROP, *range(16, 22), *MIX, *THEIRS),
    ],
)  # fmt: skip
def test_a_broken_layout_is_refused(fields: tuple[int, ...]) -> None:
    PixelSpec(SIZE, (*CROP, *MIX, *THEIRS, 138, *range(139, 144), *range(160, 168)))
    with pytest.raises(StoreError, match="layout"):
        PixelSpec(SIZE, fields)


def test_one_way_mixing_is_only_of_imported_labels() -> None:
    assert Policy.model_validate(POLICY.model_dump()) == POLICY
    assert (POLICY.mix, POLICY.fresh.mix is not None) == (None, True)
    with pytest.raises(UsageError, match="cannot be drawn"):
        parse_policy("imagenet-plus-m:partners=any")
    with pytest.raises(UsageError, match="it would change nothing"):
        parse_policy("rrc:partners=any")


# Padded crops


@pytest.mark.parametrize(("width", "height", "pad"), [(32, 32, 4), (48, 33, 6), (33, 48, 0), (20, 20, 40)])
def test_a_padded_crop_is_torchvisions_resize_pad_crop_and_flip(width: int, height: int, pad: int) -> None:
    policy = parse_policy(f"rrc:crop=pad,crop_pad={pad},interpolation=bilinear,fill=0-0-0")
    assert parse_policy(str(policy)) == policy
    image, spec = picture(5, width, height), pixel_spec(policy, 24)
    bordered = F.pad(F.resize(image, [24]), [pad] * 4)
    seen = set()
    for view in range(40):
        params = draw(view_rng(1, 2, view), policy, 24, width, height)
        shift = [-round(a * 24 / Q16) for _, _, a, _ in spec.ops(params)]
        flip = bool(spec.read(params, Field.HFLIP, 0))
        left = spec.read(params, Field.WINDOW_LEFT, 0) + pad + (shift[0] if flip else -shift[0])
        top = spec.read(params, Field.WINDOW_TOP, 0) + pad - shift[1]
        theirs = F.crop(bordered, top, left, 24, 24)
        theirs = np.asarray(F.hflip(theirs) if flip else theirs).astype(int)
        ours = apply(np.array(image), params, spec).numpy().transpose(1, 2, 0).astype(int)
        assert np.abs(ours - theirs).max() <= 1
        seen.add((top, left, flip))
    assert min(t for t, *_ in seen) >= 0
    assert max(t for t, *_ in seen) <= bordered.height - 24
    assert len({left for _, left, _ in seen}) > min(6, bordered.width - 24)
