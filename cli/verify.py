"""`reinforce verify`: check the files of a reinforced dataset, its replay, and its labels."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o
from reinforce.cli.progress import Progress

NAME = "verify"


def command(
    given: Annotated[
        str,
        typer.Argument(
            metavar="DIR|URL", help="Reinforced dataset, also a published one, or a folder that `reinforce pack` made."
        ),
    ],
    data: Annotated[str | None, typer.Option(help="Images of the dataset: hash each one and replay the stored probes.")] = None,
    views: Annotated[
        str, typer.Option(metavar="N|all", help="Also replay stripes with so many views, and compare every byte.")
    ] = "0",
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Also run the teacher again and report the KL of the labels.")
    ] = False,
    teacher_weights: Annotated[
        list[str] | None,
        typer.Option(help="The teacher's weights file, if it was a local one; of several teachers one each, or N:FILE."),
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Let a teacher run that is code (py:, pt2:) and that the data set alone names.")
    ] = False,
    teacher_views: Annotated[int, typer.Option(min=1, help="Views that the teacher labels again.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Views per teacher batch.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes.")] = 2,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Check hashes and structure; with --data, that pixels replay exactly; with --teacher, that labels are the teacher's."""
    from reinforce.errors import UsageError
    from reinforce.packs.open_labels import open_pack
    from reinforce.packs.packed_store import PackedStore
    from reinforce.sharing.cached import fresh
    from reinforce.sources.location import is_remote
    from reinforce.sources.pack_manifest import PACK
    from reinforce.store.store import MANIFEST
    from reinforce.verification.verify import verify_labels, verify_pixels, verify_store
    from reinforce.verification.verify_pack import verify_pack

    if not (views == "all" or (views.isdecimal() and len(views) < 19)):
        raise UsageError(f"--views {views} is not possible.", expected="a number of views, or all")
    count = None if views == "all" else int(views)
    remote = is_remote(given)
    if data is None and (count != 0 or teacher or teacher_weights) and (remote or not (Path(given) / PACK).exists()):
        raise UsageError("--views and --teacher need the images.", found="no --data", fix="add --data SOURCE")
    shown: dict[str, Progress] = {}

    def on_progress(name: str, done: int, total: int) -> None:
        shown.setdefault(name, Progress("verify", name, quiet=as_json))(done, total)

    # What is in the cache says nothing of what is there now: everything is fetched.
    fetched = fresh(given, Progress("fetch", "bytes", quiet=as_json)) if remote else nullcontext(Path(given))
    with fetched as root:
        packed = None if (root / MANIFEST).exists() else open_pack(root)
        checks = verify_store(root, on_progress) if packed is None else verify_pack(packed, on_progress)
        with_pixels = data is not None or (packed is not None and packed.has_labels)
        if with_pixels and not any(c.failed for c in checks):
            from reinforce.replay.dataset import ReinforcedDataset

            store = PackedStore(packed) if packed is not None else root
            dataset, model = ReinforcedDataset(store, data, check=False), None
            if teacher or teacher_weights:
                from reinforce.teachers.device import resolve_device
                from reinforce.teachers.open_teacher import teacher_of

                # Before the pixels, which may take hours: wrong weights are refused here.
                on = resolve_device(device)
                model = teacher_of(dataset.store.settings, teacher_weights or [], on, run_code=run_code)
            checks += verify_pixels(dataset, count, workers, on_progress)
            if model is not None:
                checks.append(verify_labels(dataset, model, teacher_views, batch_size, on_progress))
    failed = any(c.failed for c in checks)
    if as_json:
        typer.echo(json.dumps({"ok": not failed, "checks": [dataclasses.asdict(c) for c in checks]}, indent=2))
    else:
        for check in checks:
            verdict = "FAILED" if check.failed else "ok"
            typer.echo(
                f"{verdict:<7}{check.name}: {check.total - check.failed} of {check.total}"
                + (f"; {check.note}" if check.note else "")
            )
            for failure in check.failures:
                typer.echo(f"         {failure}")
    raise typer.Exit(1 if failed else 0)
