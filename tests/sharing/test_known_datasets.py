"""Known data sets: their manifests, the list of them, and pulling one by its name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from reinforce.errors import UsageError
from reinforce.sharing.known_datasets import find, known_datasets
from reinforce.sharing.publication import Known
from reinforce.verification.verify import require, verify_store
from tests.conftest import Cli

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def test_the_schema_of_the_manifests_is_that_of_the_model() -> None:
    assert json.loads((ROOT / "manifests" / "schema.json").read_text()) == Known.model_json_schema()


def test_known_data_sets_are_listed_and_say_how_to_get_them(cli: Cli) -> None:
    known = known_datasets()
    assert {p.stem for p in (ROOT / "manifests").glob("*.json")} == {*known, "schema"}
    assert {k.import_format for k in known.values() if k.get == "import"} == {"imagenet-plus", "fkd", "tinyvit", "relabel"}
    assert all((k.import_format is None) == (k.get != "import") for k in known.values())
    assert all(k.locations for k in known.values() if k.get != "demo")
    code, out, _ = cli("list", "datasets")
    assert code == 0
    assert all(name in out for name in known)
    with pytest.raises(UsageError, match="reinforce list datasets"):
        find("nothing")
    assert find("./folder") == (["./folder"], None)
    assert find("https://x.org/y") == (["https://x.org/y"], None)


def test_a_known_name_is_pulled_from_the_first_place_that_has_it(
    published: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256((published / "publication.json").read_bytes()).hexdigest()
    about = {
        "name": "ours",
        "description": "d",
        "get": "pull",
        "teachers": ["t"],
        "policy": "rrc-ra",
        "views": 5,
        "samples": 24,
    }
    more = {"images": "none", "licences": {}, "locations": [str(tmp_path / "gone"), str(published)]}
    for sha, code in ((digest, 0), ("0" * 64, 1)):
        known = Known.model_validate({**about, **more, "publication_sha256": sha})
        monkeypatch.setattr("reinforce.sharing.known_datasets.known_datasets", lambda known=known: {"ours": known})
        assert cli("pull", "ours", "--out", f"out{code}")[0] == code
    require(verify_store(tmp_path / "out0"))
    assert not (tmp_path / "out1").exists()
