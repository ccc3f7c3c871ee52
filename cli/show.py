"""`reinforce show`: the views of one sample as the teacher saw them, with its top classes, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "show"


def command(
    root: o.AnyDataset,
    data: Annotated[str, typer.Option(help="The images that the labels were generated from.")],
    sample: Annotated[str, typer.Option(help="Key of the sample: its path in the source, without suffix.")],
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    views: Annotated[int, typer.Option(min=1, help="Largest number of views to draw.")] = 16,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name below each view.")] = 3,
) -> None:
    """Draw the views of a sample with the teacher's top classes."""
    from reinforce.errors import UsageError
    from reinforce.files import writing
    from reinforce.replay.contact_sheet import contact_sheet
    from reinforce.replay.dataset import ReinforcedDataset
    from reinforce.sharing.cached import with_sample
    from reinforce.sources.location import is_remote

    if out.suffix != ".png":
        raise UsageError(f"{out} is no PNG file.", expected="--out NAME.png")
    dataset = ReinforcedDataset(with_sample(root, sample) if is_remote(root) else root, data, check=False)
    image = contact_sheet(dataset, sample, views, top)
    with writing(out):
        image.save(out)
    typer.echo(f"{out}: {image.width}x{image.height} pixels")
