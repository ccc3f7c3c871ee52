"""Policies: text, file and manifest to options and back; whatever is wrong is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinforce.errors import UsageError
from reinforce.policy import PRESETS, Policy
from reinforce.views.layout import pixel_spec
from reinforce.views.params import Field
from reinforce.views.policy_text import parse_policy, read_policy

pytestmark = pytest.mark.unit

UNIT = st.floats(0.01, 1).map(lambda v: round(v, 4))
PAIRS = st.tuples(UNIT, UNIT).map(sorted).map(tuple)
MIXING = [Field.PARTNER, Field.LAM, Field.BOX_TOP, Field.BOX_LEFT, Field.BOX_HEIGHT, Field.BOX_WIDTH]


@given(PAIRS, PAIRS, UNIT, UNIT, st.integers(1, 13), st.tuples(*[st.integers(0, 255)] * 3))
def test_the_text_of_a_policy_reads_as_the_policy(scale: Any, ratio: Any, hflip: Any, p: Any, n: int, fill: Any) -> None:
    crop = {"scale": scale, "ratio": ratio, "hflip": hflip}
    for policy in (
        Policy(name="none", crop_pct=max(0.2, p)),
        Policy(name="rrc", **crop, interpolation="random"),
        Policy(name="rrc-ra", **crop, p=p, n=n, fill=fill, m=10 * p, mstd=hflip, inc=n % 2),
        Policy(name="usi", **crop, mixup=p, mixup_prob=p, repeats=n, mix_both=True),
        Policy(name="tinyvit", **crop, reprob=p, re_scale=scale, re_ratio=ratio),
    ):
        assert parse_policy(str(policy)) == policy
        assert str(parse_policy(str(policy))) == str(policy)
        assert Policy.model_validate(json.loads(policy.model_dump_json())) == policy


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_all_that_applies_and_nothing_else(name: str) -> None:
    policy = parse_policy(name)
    assert policy == parse_policy(str(policy)) == Policy.model_validate(policy.model_dump())
    stored = policy.model_dump()
    assert stored.pop("name") == name
    # What is stored stands by itself: the preset's own values are not asked for.
    assert {**Policy(name="custom", **stored).model_dump(), "name": name} == policy.model_dump()
    assert PRESETS[name].description
    fields = pixel_spec(policy, 224).fields
    assert (fields[-6:] == tuple(MIXING)) == (policy.mix is not None)
    assert (Field.ERASE_TOP in fields) == bool(policy.reprob)
    assert (Field.ERASE_SEED in fields) == (policy.remode == "pixel" and bool(policy.reprob))


@pytest.mark.parametrize(
    ("name", "then"), [("usi", {"repeats": 1}), ("relabel", {"cutmix": 1.0, "mixup_prob": 1.0, "repeats": 1})]
)
def test_a_stored_policy_keeps_the_options_that_its_preset_had_then(name: str, then: dict[str, Any]) -> None:
    stored = {**parse_policy(name).model_dump(), **then}
    read = Policy.model_validate(stored)
    assert read.model_dump() == stored
    assert str(read) != str(parse_policy(name))
    assert read.mix is not None
    assert read.mix.repeats == 1


def test_options_are_read() -> None:
    policy = parse_policy("rrc-ra:scale=0.25-1,m=9,fill=1-2-3")
    assert (policy.scale, policy.m, policy.fill, policy.mstd) == ((0.25, 1.0), 9.0, (1, 2, 3), 0.5)
    assert parse_policy("rrc:ratio=1e-1-2").ratio == (0.1, 2.0)
    assert parse_policy("rrc:aa=rand,m=9,mixup=0.2").mix.mixup == 0.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rrc-aug", "There is no policy 'rrc-aug'"),
        ("", "There is no policy ''"),
        ("FKD-2", "--policy fkd"),
        ("deit-soft2", "--policy deit-soft"),
        ("strong", "--policy rrc-ra"),
        ("rrc:m=3", "m=3: it would change nothing"),
        ("none:scale=0.5-1", "scale=0.5-1: it would change nothing"),
        ("trivial:p=0.3", "p=0.3: it would change nothing"),
        ("rrc:remode=pixel", "remode=pixel: it would change nothing"),
        ("rrc:repeats=3", "repeats=3: it would change nothing"),
        ("rrc:mixup=1,mixup_switch_prob=0.2", "mixup_switch_prob=0.2: it would change nothing"),
        ("rrc:strength=3", "Policy 'rrc' has no option 'strength=3'"),
        ("rrc:name=none", "has no option 'name=none'"),
        ("rrc:scale", "has no option 'scale'"),
        ("rrc:scale=1-0.5", "scale=1-0.5: a range within 0-1"),
        ("rrc:scale=0-1", "a range within 0-1"),
        ("rrc:scale=0.5", "scale"),
        ("rrc:ratio=0-1", "a range of width/height"),
        ("tinyvit:re_scale=0-1", "re_scale=0-1: a range within 0-1"),
        ("rrc:hflip=1.5", "less than or equal to 1"),
        ("rrc:hflip=nan", "finite number"),
        ("rrc:aa=everything", "aa"),
        ("usi:mixup=-1", "greater than or equal to 0"),
        ("rrc-ra:n=0", "greater than or equal to 1"),
        ("rrc-ra:m=11", "less than or equal to 10"),
        ("imagenet-plus-ra-re:m=9.5", "a whole number"),
        ("rrc-ra:inc=2", "less than or equal to 1"),
        ("rrc-ra:fill=1-2-300", "three values within 0-255"),
        ("none:crop_pct=0", "greater than 0.1"),
    ],
)
def test_what_is_wrong_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_policy(text)
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_a_file_is_a_policy_that_needs_no_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('preset = "usi"\nscale = [0.25, 1.0]\ncutmix = 0\nm = 9\n')
    policy = read_policy(str(path))
    assert (policy.name, policy.scale, policy.m, policy.mixup, policy.cutmix) == ("custom", (0.25, 1.0), 9.0, 0.8, 0.0)
    path.unlink()
    assert parse_policy(str(policy)) == policy
    path.write_text('preset = "tinyvit"\naa = "none"\nreprob = 0\n')
    assert pixel_spec(read_policy(str(path)), 32).fields == pixel_spec(parse_policy("rrc"), 32).fields
    path.write_text("")
    assert read_policy(str(path)).options == parse_policy("rrc").options
    assert read_policy("rrc:hflip=0") == parse_policy("rrc:hflip=0")


@pytest.mark.parametrize(("content", "message"), [
    (b'preset = "best"', "starts from no known preset"), (b"preset = 3", "starts from no known preset"),
    (b"strength = 3", "has no option 'strength'"), (b'name = "usi"', "has no option 'name'"),
    (b"m = 3", "it would change nothing"),
    (b"scale = 3", "scale"), (b"scale = ", "is no TOML"), (b"\xff", "is no TOML"), (b"[scale]\na = 1", "scale"),
    (None, "There is no policy file"),
])  # fmt: skip
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_policy(str(path))
    assert message in str(error.value)
