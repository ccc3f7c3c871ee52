"""Policies: text to config and back; whatever is wrong is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinforce.errors import UsageError
from reinforce.policy import NonePolicy, RRCPolicy, RRCRandAugmentPolicy, parse_policy

UNIT = st.floats(0.01, 1).map(lambda v: round(v, 4))
PAIRS = st.tuples(UNIT, UNIT).map(sorted).map(tuple)


@given(PAIRS, PAIRS, UNIT, UNIT, st.integers(1, 16), st.tuples(*[st.integers(0, 255)] * 3))
def test_the_text_of_a_policy_reads_as_the_policy(scale, ratio, hflip, p, n, fill) -> None:
    for policy in (
        NonePolicy(crop_pct=max(0.2, p)),
        RRCPolicy(scale=scale, ratio=ratio, hflip=hflip, interpolation="random"),
        RRCRandAugmentPolicy(scale=scale, ratio=ratio, hflip=hflip, p=p, n=n, fill=fill, m=10 * p, mstd=hflip, inc=n % 2),
    ):
        assert str(parse_policy(str(policy))) == str(policy)
        assert parse_policy(str(parse_policy(str(policy)))) == parse_policy(str(policy))


def test_options_are_read() -> None:
    policy = parse_policy("rrc-ra:scale=0.25-1,m=9,fill=1-2-3")
    assert (policy.scale, policy.m, policy.fill, policy.mstd) == ((0.25, 1.0), 9.0, (1, 2, 3), 0.5)
    assert parse_policy("rrc:ratio=1e-1-2").ratio == (0.1, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rrc-aug", "There is no policy 'rrc-aug'"),
        ("", "There is no policy ''"),
        ("rrc:m=3", "Policy 'rrc' has no option 'm=3'"),
        ("rrc:name=none", "has no option 'name=none'"),
        ("rrc:scale", "has no option 'scale'"),
        ("rrc:scale=1-0.5", "scale=1-0.5: a range within 0-1"),
        ("rrc:scale=0-1", "a range within 0-1"),
        ("rrc:scale=0.5", "scale"),
        ("rrc:ratio=0-1", "a range of width/height"),
        ("rrc:hflip=1.5", "less than or equal to 1"),
        ("rrc:hflip=nan", "finite number"),
        ("rrc-ra:n=0", "greater than or equal to 1"),
        ("rrc-ra:m=11", "less than or equal to 10"),
        ("rrc-ra:inc=2", "less than or equal to 1"),
        ("rrc-ra:fill=1-2-300", "three values within 0-255"),
        ("none:crop_pct=0", "greater than 0.1"),
    ],
)
def test_what_is_wrong_is_refused_by_name(text, message) -> None:
    with pytest.raises(UsageError) as error:
        parse_policy(text)
    assert message in str(error.value)
    assert error.value.exit_code == 2
