"""Generate: stage one. An engine makes the missing blocks; then the table of samples and the manifest are written here.

Resume is "the blocks that are missing". Batches never cross a block, and each block is committed by one rename, so a block's
labels do not depend on which blocks were made before it: after any number of kills the result is byte-identical to an
undisturbed run on the same machine, with the same batch size, device and number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reinforce.errors import Interrupted, StoreError, UsageError
from reinforce.files import Progress, check_output, only_writer, write_atomic, writing
from reinforce.generation.block_labels import block_samples
from reinforce.generation.engine import Execution, Work
from reinforce.generation.engines import engine_of
from reinforce.settings import Settings, to_json
from reinforce.sources.source import Source, check_outside
from reinforce.store.block import Block, block_path, committed_blocks, remove_staging
from reinforce.store.completion import write_manifest
from reinforce.store.label_means import LabelMeans
from reinforce.store.manifest import Environment, Job, Manifest, check_same_settings
from reinforce.store.probes import check_block_probes, environment
from reinforce.store.samples import Samples
from reinforce.store.store import JOB, MANIFEST, read_job, read_manifest
from reinforce.store.witness import check_block_stripe, covering_stripes
from reinforce.store.zarr_layout import MAX_PARAMS_BYTES
from reinforce.teachers.teacher import Teacher
from reinforce.views.layout import pixel_spec
from reinforce.views.status import Status

RESUME_PROBES = 2
"""How many probes of each existing block are replayed before a run is resumed."""


def limit_source(source: Source, limit: int | None) -> Source:
    """At most `limit` samples, spread evenly over the index, so that every class of a sorted folder has its share."""
    if limit is None or limit >= len(source):
        return source
    if limit < 1:
        raise UsageError("--limit must be at least 1.", found=limit)
    return source.take([i * len(source) // limit for i in range(limit)])


def generate(
    source: Source,
    teacher: Teacher,
    settings: Settings,
    out: Path,
    execution: Execution | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Manifest:
    """Generate a reinforced dataset, or finish one.

    Args:
        source: The images; their index must be the one in `settings`.
        teacher: Gives float32 `[B, C]` for uint8 `[B, 3, H, W]`.
        settings: What to make.
        out: Directory to write; may hold an interrupted run of the same settings.
        execution: Engine, batch size and workers.
        on_progress: Called after each sample with samples done and in all; existing blocks count as done.

    Raises:
        UsageError: there is no such engine, a block would be too large, or `out` is inside of the source.
        SettingsError: `out` was made with other settings.
        BusyError: another process is writing `out`.
        StoreError: `out` holds something else, or the disk is full.
        Interrupted: Ctrl-C.
    """
    execution = execution or Execution()
    engine_of(execution.engine)  # before anything is written
    check_outside(source, out)
    _check_params_fit(settings)
    with writing(out):
        check_output(out, marks=(MANIFEST, JOB), allowed=("blocks",))
        (out / "blocks").mkdir(parents=True, exist_ok=True)
        try:
            with only_writer(out):
                return _generate_locked(source, teacher, settings, out, execution, on_progress)
        except KeyboardInterrupt:
            raise Interrupted(
                "Generation was interrupted; committed blocks are kept.",
                fix="the same command continues with the missing blocks",
            ) from None


def _check_params_fit(settings: Settings) -> None:
    """Refuse a block whose params a reader would refuse (FORMAT.md, "Bounds")."""
    rows = min(settings.block_size, settings.source.num_samples)
    size = 4 * rows * settings.views * len(pixel_spec(settings.policy, settings.size).fields)
    if size > MAX_PARAMS_BYTES:
        raise UsageError(
            "A block would be too large.",
            found=f"{size:,} bytes of params for {rows} samples with {settings.views} views",
            expected=f"at most {MAX_PARAMS_BYTES:,}",
            fix=f"--block-size {max(1, rows * MAX_PARAMS_BYTES // size)}, or fewer --views",
        )


def _generate_locked(
    source: Source, teacher: Teacher, settings: Settings, out: Path, execution: Execution, on_progress: Progress
) -> Manifest:
    if (out / MANIFEST).exists():
        manifest = read_manifest(out)
        if manifest.part_of is not None:
            raise StoreError(
                f"{out} is a part of another data set.",
                expected="a data set that was generated here",
                fix="`reinforce pull` fetches the rest; or choose another --out",
            )
        check_same_settings(manifest.settings, settings, str(out))
        if set(range(settings.num_blocks)) <= committed_blocks(out):
            (out / JOB).unlink(missing_ok=True)  # it is left over if the last run was killed just before its end
            return manifest
        # Someone removed a damaged block: the data set is not complete any more, and that block is made again.
        write_atomic(out / JOB, to_json(Job(settings=manifest.settings, environment=manifest.environment)).encode())
        (out / MANIFEST).unlink()
    job = read_job(out)
    if job is None:
        if committed_blocks(out):
            raise StoreError(
                f"{out} has blocks, and nothing that says what they are.",
                expected=f"{JOB} or {MANIFEST} beside them",
                cause="a file was removed",
                fix="choose another --out",
            )
        job = Job(settings=settings, environment=environment())
        write_atomic(out / JOB, to_json(job).encode())
    check_same_settings(job.settings, settings, str(out))
    remove_staging(out)
    _check_same_pixels(source, settings, job.environment, out)
    missing = sorted(set(range(settings.num_blocks)) - committed_blocks(out))
    engine_of(execution.engine).make_blocks(Work(source, teacher, settings, out, execution), missing, on_progress)
    return _finish(source, settings, job.environment, out)


def _check_same_pixels(source: Source, settings: Settings, env: Environment, out: Path) -> None:
    """Replay views of existing blocks: a resumed run must make the same pixels as the run that made these blocks."""
    spec = pixel_spec(settings.policy, settings.size)
    blocks: dict[int, Block] = {}
    for number in sorted(committed_blocks(out)):
        rows = block_samples(settings, number)
        blocks[number] = Block(block_path(out, number), len(rows), settings.views, len(spec.fields), settings.stripe_views)
        check_block_probes(blocks[number], rows, source, settings, env, limit=RESUME_PROBES)

    def stripes() -> Iterator[tuple[list[tuple[int, int, int]], np.ndarray]]:
        for number, block in blocks.items():
            ok = np.flatnonzero(block.sample_columns()["status"] == Status.OK)
            for stripe in block.stripes if len(ok) else []:
                if stripe.witness is not None:
                    yield [(number, row, stripe.number) for row in ok.tolist()], stripe.params()[ok]

    for number, row, stripe in covering_stripes(stripes(), spec):
        check_block_stripe(blocks[number], block_samples(settings, number), row, stripe, source, settings, env)


def _finish(source: Source, settings: Settings, env: Environment, out: Path) -> Manifest:
    """Write the table of samples and then the manifest; remove the job file, which is no longer needed."""
    spec = pixel_spec(settings.policy, settings.size)
    table = Samples.empty(source.keys, [source.label(i) for i in range(len(source))])
    statistics = LabelMeans(settings)
    for block in range(settings.num_blocks):
        samples = block_samples(settings, block)
        shape = (len(samples), settings.views, len(spec.fields), settings.stripe_views)
        reader = Block(block_path(out, block), *shape)
        table.fill(block, samples, reader)
        statistics.add(reader, [source.label(s) for s in samples])
    manifest = write_manifest(out, settings, env, table, statistics)
    (out / JOB).unlink()
    return manifest
