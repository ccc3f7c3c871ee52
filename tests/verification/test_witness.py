"""Witness: code that makes other pixels than the teacher saw is found, whichever part of it is changed, and in every policy."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from reinforce import ReinforcedDataset
from reinforce.errors import ReplayError, StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.packs.pack import Options, pack
from reinforce.policy import PRESETS
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import verify_pixels
from reinforce.views import apply, mix, pixels
from reinforce.views.erase import noise
from reinforce.views.operation import Operation
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import Op
from reinforce.views.policy_text import parse_policy
from tests.conftest import Cli, make_settings
from tests.verification.damage import edit_manifest, flip

pytestmark = pytest.mark.unit

DRAWN = [name for name in PRESETS if parse_policy(name).crop == "rrc"]


@pytest.fixture(scope="module")
def store_of(images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A store of 24 samples with 5 views of a policy, in stripes of 2, made once."""
    root = tmp_path_factory.mktemp("witness")

    @lru_cache
    def make(name: str) -> Path:
        source = ImageFolder.open(images)
        settings = make_settings(source, teacher, policy=parse_policy(name), stripe_views=2)
        generate(source, teacher, settings, root / name, Execution(batch_size=16, workers=0))
        return root / name

    return make


def ops_of(store: Store, blocks: Sequence[int] = range(4)) -> Counter[int]:
    """In how many slots of all views of some blocks each op is."""
    params = np.concatenate([store.block(b).params() for b in blocks]).reshape(-1, len(store.spec.fields))
    return Counter(op for row in params for op, *_ in store.spec.ops(row) if op != Op.NONE)


def failures(root: Path, images: Path) -> tuple[int, int]:
    """Stripes that fail `verify --views all`, and how many there are."""
    _, stripes = verify_pixels(ReinforcedDataset(root, images, check=False), None, workers=0)
    return stripes.failed, stripes.total


# The number itself


def crc32c(content: bytes) -> int:
    """CRC-32C bit by bit, from the polynomial of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("policy", ["rrc", "usi"])
def test_a_witness_is_the_crc_of_all_pixels_of_its_views(store_of: Callable[[str], Path], images: Path, policy: str) -> None:
    assert crc32c(b"123456789") == 0xE3069283
    data = ReinforcedDataset(store_of(policy), images, check=False)
    for index, stripe, views in ((0, 0, (0, 1)), (17, 1, (2, 3)), (23, 2, (4,))):
        content = b"".join(data.replay(index, view).numpy().tobytes() for view in views)
        assert data.store.witness_of(int(data.samples[index]), stripe) == crc32c(content)


# Everything that is changed is found


def edited(op: int) -> Operation:
    """The op, with its result one row too far down. Equalize after it would hide a change of all values, but not this."""
    real = OPERATIONS[op].kernel
    return replace(OPERATIONS[op], kernel=lambda *args: np.roll(real(*args), 1, axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("policy", DRAWN)
def test_each_op_that_is_edited_is_found_in_every_policy_that_has_it(
    store_of: Callable[[str], Path], images: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = store_of(policy)
    drawn = ops_of(Store(root))
    assert failures(root, images) == (0, 72)
    ReinforcedDataset(root, images)
    for op in drawn:
        with monkeypatch.context() as patch:
            patch.setitem(OPERATIONS, op, edited(op))
            assert failures(root, images)[0] > 0, (policy, Op(op))
            with pytest.raises(ReplayError, match="Replayed pixels differ from those the teacher saw"):
                ReinforcedDataset(root, images)
    assert failures(root, images)[0] == 0


def test_the_policies_have_every_op(store_of: Callable[[str], Path]) -> None:
    assert set().union(*(ops_of(Store(store_of(policy))) for policy in DRAWN)) == {*OPERATIONS} - {Op.NONE}


def other_decoder(patch: pytest.MonkeyPatch) -> None:
    real = simplejpeg.decode_jpeg
    patch.setattr(simplejpeg, "decode_jpeg", lambda *args, **kwargs: real(*args, **{**kwargs, "fastdct": True}))


def other_resize(patch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.interpolate
    patch.setattr(torch.nn.functional, "interpolate", lambda *a, **k: real(*a, **{**k, "antialias": False}))


def no_mirror(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(np, "ascontiguousarray", lambda array, *args: np.array(array[:, :, ::-1] if array.strides[-1] < 0 else array))


def other_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(apply, "noise", lambda seed, height, width: noise(seed + 1, height, width))


def other_mixture(patch: pytest.MonkeyPatch) -> None:
    real, whole = mix.mix, mix.WHOLE
    patch.setattr(pixels, "mix", lambda both, mixing: real(both, mixing._replace(lam=np.minimum(mixing.lam + 1, whole))))


def no_cut(patch: pytest.MonkeyPatch) -> None:
    real = mix.mix
    patch.setattr(pixels, "mix", lambda images, mixing: real(images, mixing._replace(boxes=0 * mixing.boxes)))


@pytest.mark.parametrize(("policy", "change"), [
    ("rrc", other_decoder), ("rrc", other_resize), ("rrc", no_mirror), ("fkd", other_resize), ("tinyvit", other_noise),
    ("usi", other_mixture), ("usi", no_cut), ("imagenet-plus-m", no_cut),
])  # fmt: skip
def test_what_is_no_op_is_found_too(
    store_of: Callable[[str], Path], images: Path, policy: str, change: Callable[[pytest.MonkeyPatch], None], cli: Cli
) -> None:
    root = store_of(policy)
    with pytest.MonkeyPatch.context() as patch:
        change(patch)
        assert failures(root, images)[0] > 0
        with pytest.raises(ReplayError, match="Replayed pixels differ"):
            ReinforcedDataset(root, images)
        code, text, _ = cli("verify", root, "--data", images, "--views", "all", "--workers", 0)
        assert code == 1
        assert "FAILED stripes replayed" in text
        assert re.search(r"CRC-32C [0-9a-f]{8}; expected", re.sub(" +", " ", text))
    assert failures(root, images)[0] == 0


def test_a_resumed_run_makes_the_pixels_of_the_blocks_that_are_there(
    store_of: Callable[[str], Path], images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store(store_of("imagenet-plus-ra-re"))
    settings, source = whole.settings, ImageFolder.open(images)
    there = ops_of(whole, [0, 1, 2])
    root = Path(shutil.copytree(whole.root, tmp_path / "out"))
    shutil.rmtree(root / "blocks" / "000003.zarr")
    for op in there:
        with monkeypatch.context() as patch:
            patch.setitem(OPERATIONS, op, edited(op))
            with pytest.raises(ReplayError, match="Replayed pixels differ"):
                generate(source, teacher, settings, root, Execution(batch_size=16, workers=0))
    generate(source, teacher, settings, root, Execution(batch_size=16, workers=0))
    assert failures(root, images) == (0, 72)


# Damage, and stores that have no witness


def test_a_witness_that_is_missing_or_another_is_found(store_of: Callable[[str], Path], images: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(store_of("rrc-ra"), tmp_path / "out"))
    flip(root / "blocks/000001.zarr/witness_1/c/0")
    checks = verify_pixels(ReinforcedDataset(root, images, check=False), None, workers=0)
    assert [(c.name, c.failed) for c in checks] == [("images and probes", 0), ("stripes replayed", 1)]
    assert "one of views 2 to 3" in checks[1].failures[0]
    (root / "blocks/000001.zarr/witness_1/c/0").write_bytes(b"")
    with pytest.raises(StoreError, match="is damaged"):
        Store(root).block(1).witness()
    shutil.rmtree(root / "blocks/000001.zarr/witness_1")
    with pytest.raises(StoreError, match="is damaged") as error:
        verify_pixels(ReinforcedDataset(root, images, check=False), None, workers=0)
    assert "witness_1 is missing" in str(error.value)


def without_witness(root: Path, out: Path) -> Path:
    """A store as it was written before there was a witness."""
    shutil.copytree(root, out, ignore=shutil.ignore_patterns("witness*"))
    edit_manifest(out, lambda m: m.update(files={path: sha for path, sha in m["files"].items() if "witness" not in path}))
    return out


def test_a_store_without_witness_is_used_and_says_what_cannot_be_checked(
    store_of: Callable[[str], Path], images: Path, tmp_path: Path, cli: Cli
) -> None:
    root = without_witness(store_of("rrc-ra"), tmp_path / "old")
    assert len(ReinforcedDataset(root, images)) == 24
    code, text, _ = cli("verify", root, "--data", images, "--views", "all", "--workers", 0)
    assert code == 0
    assert "stripes replayed: 0 of 0; 0 views of 120" in text
    assert "120 views cannot be checked: they were generated before a witness of them was stored" in text
    pack(ImageFolder.open(images), root, tmp_path / "pack", Options())
    packed = ReinforcedDataset(tmp_path / "pack")
    assert packed.store.witness_of(0, 0) is None


def test_an_old_store_whose_block_is_made_again_says_which_views_can_be_checked(
    store_of: Callable[[str], Path], images: Path, teacher: Teacher, tmp_path: Path, cli: Cli
) -> None:
    root = without_witness(store_of("rrc-ra"), tmp_path / "old")
    settings = Store(root).settings
    shutil.rmtree(root / "blocks/000002.zarr")
    generate(ImageFolder.open(images), teacher, settings, root, Execution(batch_size=16, workers=0))
    assert Store(root).block(1).witness() is None
    code, text, _ = cli("verify", root, "--data", images, "--views", "all", "--workers", 0, "--json")
    check = json.loads(text)["checks"][-1]
    assert (code, check["total"], check["failed"]) == (0, 21, 0)
    assert check["note"].startswith("35 views of 120")
    assert "85 views cannot be checked" in check["note"]


@pytest.mark.parametrize(("asked", "checked"), [("1", 1), ("7", 7), ("120", 120), ("100000", 120), ("all", 120)])
def test_so_many_views_are_checked(store_of: Callable[[str], Path], images: Path, cli: Cli, asked: str, checked: int) -> None:
    code, text, _ = cli("verify", store_of("rrc-ra"), "--data", images, "--views", asked, "--workers", 0, "--json")
    check = json.loads(text)["checks"][-1]
    assert (code, check["name"], check["failed"]) == (0, "stripes replayed", 0)
    assert checked <= int(check["note"].split()[0]) <= checked + 1


@pytest.mark.parametrize("asked", ["-1", "some", "1.5", "9" * 30])
def test_another_number_of_views_is_refused(store: Path, cli: Cli, asked: str) -> None:
    code, _, said = cli("verify", store, f"--views={asked}")
    assert code == 2
    assert "a number of views, or all" in said


@pytest.mark.parametrize("policy", ["rrc-ra", "usi"])
def test_a_pack_keeps_the_witness(store_of: Callable[[str], Path], images: Path, tmp_path: Path, policy: str, cli: Cli) -> None:
    root = store_of(policy)
    pack(ImageFolder.open(images), root, tmp_path / "pack", Options())
    folder, packed = Store(root), ReinforcedDataset(tmp_path / "pack").store
    for sample in range(24):
        for stripe in range(3):
            assert packed.witness_of(sample, stripe) == folder.witness_of(sample, stripe)
    code, text, _ = cli("verify", tmp_path / "pack", "--views", "all", "--workers", 0)
    assert code == 0
    assert "stripes replayed: 72 of 72; 120 views of 120, each byte of them" in text
