"""Finish: the end of stage one. Once all blocks are committed, the table of samples and then the manifest are written."""

from __future__ import annotations

from reinforce.generation.block_labels import block_samples
from reinforce.generation.engine import planned
from reinforce.long_work import long_work
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.block_notes import BundleNote
from reinforce.store.label_means import LabelSums
from reinforce.store.manifest import Environment, Manifest
from reinforce.store.place import Made, Place
from reinforce.store.samples import Samples


def finish(source: Source, settings: Settings, env: Environment, place: Place) -> Manifest:
    """Write the table and the manifest.

    It may be killed at any moment and begun again: the notes of blocks, once taken, are kept until the manifest is there.

    Args:
        source: The images.
        settings: Settings of the data set.
        env: Versions that its first block was made with.
        place: Where all its blocks are.
    """
    table = Samples.empty(source.keys, source.labels)
    sums = LabelSums()
    files: dict[str, str] = {}
    bundles: list[tuple[int, BundleNote]] = []
    shown = long_work("finish", "blocks")
    every = (planned(source, settings, number) for number in range(settings.num_blocks))
    for number, notes in enumerate(place.notes(every)):
        table.fill(number, block_samples(settings, number), notes.sample_columns(), notes.reasons)
        shown(number, settings.num_blocks)
        sums += notes.sums
        files |= {f"blocks/{number:06d}.zarr/{name}": sha256 for name, sha256 in notes.files.items()}
        bundles += [(number, bundle) for bundle in notes.bundles]
    return place.finish(settings, env, Made(table, sums, files, bundles))
