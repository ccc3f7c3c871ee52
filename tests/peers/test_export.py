"""Export: ours go out for the loaders of others and come in again the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.peers.ml_dr import op_of, slot_of
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.views.params import OP_SLOT_BASE, Field, Op
from reinforce.views.policy_text import parse_policy
from reinforce.views.torchvision_ops import TORCHVISION_OPS
from tests.conftest import Cli, make_settings
from tests.peers.label_files import dense

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("kind", "policy"), [("ml-dr", "imagenet-plus-rrc"), ("ml-dr", "imagenet-plus-ra-re"), ("fkd", "fkd")])
def test_what_goes_out_comes_in_again_the_same(
    kind: str, policy: str, images: Path, teacher: Teacher, tmp_path: Path, cli: Cli
) -> None:
    source, size = ImageFolder.open(images), 224 if policy.endswith("re") else 32
    changes = {"policy": parse_policy(policy), "size": size, "codec": {"name": "topk", "k": 2}, "views": 2}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    code, text, err = cli("export", tmp_path / "a", "--format", kind, "--topk", 2, "--out", tmp_path / "files")
    assert code == 0, err
    assert "2 likeliest classes" in text
    name = {"ml-dr": "imagenet-plus"}.get(kind, kind)
    options = ("--num-classes", 3, "--size", size, "--workers", 0)
    code, _, err = cli("import", name, tmp_path / "files", "--data", images, *options, "--out", tmp_path / "b")
    assert code == 0, err
    before, after = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert before.spec.fields == after.spec.fields
    for sample in range(24):
        assert np.allclose(dense(before, sample), dense(after, sample), atol=1e-3)
        for view in range(2):
            mine, theirs = before.params_of(sample, view), after.params_of(sample, view)
            if kind == "ml-dr":
                ours = [i for i, f in enumerate(before.spec.fields) if f < OP_SLOT_BASE]
                if before.spec.read(mine, Field.ERASE_HEIGHT, 1):
                    assert np.array_equal(mine[ours], theirs[ours])
                assert np.abs(mine - theirs).max() <= 2, "but for the last bit of an angle"
            else:
                assert np.array_equal(mine, theirs)


def test_ops_survive_the_way_there_and_back() -> None:
    for number, op in enumerate(TORCHVISION_OPS):
        magnitude = {Op.POSTERIZE: 6.0, Op.SOLARIZE: 178.0, Op.TRANSLATE_X: -31.0, Op.TRANSLATE_Y: 17.0, Op.ROTATE: -9.0}.get(
            op, 0.27
        )
        if op in (Op.NONE, Op.AUTO_CONTRAST, Op.EQUALIZE):
            magnitude = 0.0
        back = op_of(slot_of(number, magnitude))
        assert back[0] == number
        assert back[1] == pytest.approx(magnitude, abs=1e-4)


def test_views_that_another_loader_cannot_show_do_not_go_out(images: Path, teacher: Teacher, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher, views=1), tmp_path / "a", Execution(16, 0))
    for kind in ("ml-dr", "fkd"):
        code, _, err = cli("export", tmp_path / "a", "--format", kind, "--out", tmp_path / "files")
        assert code == 2
        assert "policy rrc-ra cannot be written" in err
        assert not (tmp_path / "files").exists()
