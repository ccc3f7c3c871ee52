"""The numbers of FORMAT.md, "Bounds", are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reinforce.labels import sqrt
from reinforce.settings import MAX_BYTES, Settings, SourceInfo
from reinforce.sharing import fetch, publication
from reinforce.sources import pack_folder, parquet_pages, remote_names, s3_session, server, table_guard
from reinforce.store import stripe, zarr_layout
from reinforce.views.decode import MAX_PIXELS

pytestmark = pytest.mark.unit

TEXT = (Path(__file__).parents[1] / "reinforce" / "FORMAT.md").read_text().partition("## Bounds\n")[2].partition("\n## ")[0]
ROWS = dict(re.findall(r"^\| (?!what|-)(.+?) \| (.+?) \|$", TEXT, re.MULTILINE))
_UNITS = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
_NUMBER = re.compile(r"2\^(\d+)|(\d+)(?: (KiB|MiB|GiB|TiB))?(?![\w^])")


def numbers(text: str) -> list[int]:
    """`2^22`, `64 MiB` and `4096` in a text."""
    return [1 << int(m[1]) if m[1] else int(m[2]) << _UNITS.get(m[3], 0) for m in _NUMBER.finditer(text)]


def row(begins: str) -> list[int]:
    (found,) = [value for name, value in ROWS.items() if name.startswith(begins)]
    return numbers(found)


def _most(field: str) -> int:
    fields = {**SourceInfo.model_fields, **Settings.model_fields}
    (found,) = [m.le for m in fields[field].metadata if hasattr(m, "le")]
    return int(found)


@pytest.mark.parametrize(("begins", "expected"), [
    ("`manifest.json`", [MAX_BYTES]),
    ("`zarr.json` of a block's group", [stripe._MAX_METADATA, stripe._MAX_ARRAY_METADATA]),
    ("samples; views", [_most("num_samples"), _most("views"), _most("num_classes"), _most("block_size")]),
    ("pixels of an image", [MAX_PIXELS]),
    ("params of a block", [zarr_layout.MAX_PARAMS_BYTES]),
    ("rows of a row group", [table_guard.MAX_GROUP_ROWS]),
    ("all columns of such a table", [table_guard.BYTES_PER_ROW, table_guard.SPARE_BYTES]),
    ("a text in such a table", [table_guard.MAX_TEXT]),
    ("footer of such a table", [parquet_pages.MAX_FOOTER, parquet_pages.FOOTER_LIMITS["thrift_container_size_limit"]]),
    ("header of a page", [parquet_pages.MAX_PAGE_HEADER]),
    ("all pages of such a table", [table_guard.BYTES_PER_ROW, table_guard.SPARE_BYTES]),
    ("`samples.parquet` of a pack", [table_guard.MAX_TABLE, table_guard.BYTES_PER_ROW, table_guard.SPARE_BYTES]),
    ("a bundle", [publication.MAX_BUNDLE_BYTES]),
    ("any other published file", [fetch._MAX_FILE]),
    ("files that a bucket", [remote_names.MAX_NAMES, remote_names.MAX_PAGES, remote_names.MAX_LEVELS]),
    ("a page of such names", [server.MAX_PAGE]),
])  # fmt: skip
def test_a_bound_of_the_page_is_that_of_the_code(begins: str, expected: list[int]) -> None:
    assert row(begins) == expected


def test_bounds_that_are_sums() -> None:
    assert sum(row("a file of pairs")) == pack_folder.MAX_MIXING
    assert row("content of a `sqrt` record")[0] == sqrt.MAX_CONTENT
    assert s3_session.MAX_ANSWER == server.MAX_PAGE
    assert len(ROWS) == 21  # a new row needs its line above
