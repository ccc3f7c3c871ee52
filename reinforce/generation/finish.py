"""Finish: the end of stage one. Once all blocks are committed, the table of samples and then the manifest are written."""

from __future__ import annotations

from pathlib import Path

from reinforce.generation.block_labels import block_samples
from reinforce.long_work import long_work
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.block import Block, block_path
from reinforce.store.block_notes import read_notes, remove_notes, take_notes
from reinforce.store.completion import write_manifest
from reinforce.store.label_means import LabelSums
from reinforce.store.manifest import Environment, Manifest
from reinforce.store.samples import Samples
from reinforce.store.store import JOB
from reinforce.views.layout import pixel_spec


def finish(source: Source, settings: Settings, env: Environment, out: Path) -> Manifest:
    """Write the table and the manifest; remove the job file and the notes of blocks, which are no longer needed.

    It may be killed at any moment and begun again: the notes of blocks, once taken, are kept until the manifest is there.

    Args:
        source: The images.
        settings: Settings of the data set.
        env: Versions that its first block was made with.
        out: Its folder, with all blocks.
    """
    spec = pixel_spec(settings.policy, settings.size)
    table = Samples.empty(source.keys, source.labels)
    sums = LabelSums()
    files: dict[str, str] = {}
    shown = long_work("finish", "blocks")
    for number in range(settings.num_blocks):
        samples = block_samples(settings, number)
        block = Block(block_path(out, number), len(samples), settings.views, len(spec.fields), settings.stripe_views)
        table.fill(number, samples, block)
        notes = read_notes(out, number)
        if notes is None:
            notes = take_notes(out, number, block, [source.label(s) for s in samples.tolist()], settings)
        shown(number, settings.num_blocks)
        sums += notes.sums
        files |= {f"blocks/{block.path.name}/{name}": sha256 for name, sha256 in notes.files.items()}
    manifest = write_manifest(out, settings, env, table, sums, files)
    (out / JOB).unlink()
    remove_notes(out)
    return manifest
