"""Generate: stage one. An engine makes the missing blocks; then the table of samples and the manifest are written here.

Resume is "the blocks that are missing". Batches never cross a block, and each block is committed by one rename, so a block's
labels do not depend on which blocks were made before it: after any number of kills the result is byte-identical to an
undisturbed run on the same machine, with the same batch size, device and number of threads.
"""

from __future__ import annotations

from pathlib import Path

from reinforce.errors import BusyError, Interrupted, StoreError, UsageError
from reinforce.files import Progress
from reinforce.generation.block_labels import block_samples
from reinforce.generation.engine import Execution, Rates, Work
from reinforce.generation.engines import engine_of
from reinforce.generation.finish import finish
from reinforce.generation.resume import check_same_pixels
from reinforce.generation.share import Share
from reinforce.settings import Settings, to_json
from reinforce.sources.source import Source, check_outside
from reinforce.store.folder_place import FolderPlace
from reinforce.store.listed import check_list_fits
from reinforce.store.manifest import Job, Manifest, check_same_settings
from reinforce.store.place import Place
from reinforce.store.probes import environment
from reinforce.store.store import JOB, MANIFEST
from reinforce.store.zarr_layout import MAX_PARAMS_BYTES
from reinforce.teachers.teacher import Teacher
from reinforce.views.layout import pixel_spec


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
    out: Path | Place,
    execution: Execution | None = None,
    on_progress: Progress = lambda done, total: None,
    on_rates: Rates = lambda rates: None,
) -> Manifest:
    """Generate a reinforced dataset, or finish one.

    Args:
        source: The images; their index must be the one in `settings`.
        teacher: Gives float32 `[B, C]` for uint8 `[B, 3, H, W]`.
        settings: What to make.
        out: Folder to write, or another place; may hold an interrupted run of the same settings.
        execution: Engine, devices, batch size and workers.
        on_progress: Called after each sample with samples done and in all; existing blocks count as done.
        on_rates: Called, before progress is told, with the images per second of each device, where there are several.

    Raises:
        UsageError: there is no such engine, a block or the manifest would be too large, or `out` is inside of the source.
        SettingsError: `out` was made with other settings.
        BusyError: another process is writing `out`.
        StoreError: `out` holds something else, or the disk is full.
        Interrupted: Ctrl-C.
    """
    work = Work(source, teacher, settings, _place(out), execution or Execution(), on_rates)
    made = _run(work, None, on_progress)
    assert made is not None
    return made


def generate_share(
    source: Source,
    teacher: Teacher,
    settings: Settings,
    out: Path | Place,
    share: Share,
    execution: Execution | None = None,
    on_progress: Progress = lambda done, total: None,
    on_rates: Rates = lambda rates: None,
) -> Manifest | None:
    """Make the blocks of one share, while other jobs make the others; whoever finds no block missing finishes the data set.

    Args:
        source: As of `generate`, and so are all the others.
        teacher: As of `generate`.
        settings: As of `generate`.
        out: A folder that all jobs see, or another place.
        share: Which blocks.
        execution: As of `generate`.
        on_progress: Called with the samples of this share that are done, and all of them.
        on_rates: As of `generate`.

    Returns:
        The manifest if the data set is complete now; None: other shares have blocks to make, or another job is finishing it.

    Raises:
        BusyError: another job has the same share, or the plain command is writing `out`; an object store cannot tell:
            what comes first stays.
        ReinforceError: as of `generate`.
    """
    return _run(Work(source, teacher, settings, _place(out), execution or Execution(), on_rates), share, on_progress)


def _place(out: Path | Place) -> Place:
    return out if isinstance(out, Place) else FolderPlace(out)


def _run(work: Work, share: Share | None, on_progress: Progress) -> Manifest | None:
    engine_of(work.execution.engine).require(work.execution)  # before anything is written
    place = work.place
    check_outside(work.source, place.name)
    _check_params_fit(work.settings)
    check_list_fits(work.settings)
    place.prepare()
    try:
        with place.locked(None if share is None else f"{share.number}-of-{share.of}"):
            return _run_locked(work, share, on_progress)
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


def _run_locked(work: Work, share: Share | None, on_progress: Progress) -> Manifest | None:
    source, settings, place = work.source, work.settings, work.place
    if (manifest := place.manifest()) is not None and _complete(manifest, settings, place, share):
        return manifest
    # Another share may finish it in this very moment: then there is no job any more.
    if place.job() is None and (manifest := place.manifest()) is not None and _complete(manifest, settings, place, share):
        return manifest
    job = _job(settings, place)
    if share is None:
        place.tidy(complete=False)
    check_same_pixels(source, settings, job.environment, place)
    every = list(range(settings.num_blocks))
    mine = every if share is None else share.blocks_of(every)
    missing = sorted(set(mine) - work.committed())
    others = len(source) - sum(len(block_samples(settings, block)) for block in mine)
    # Of a share, the samples of other shares count neither as done nor as to be done.
    engine_of(work.execution.engine).make_blocks(work, missing, lambda done, total: on_progress(done - others, total - others))
    if share is None:
        place.tidy(complete=False)  # of processes and nodes that were lost
        return finish(source, settings, job.environment, place)
    if set(every) - work.committed():
        return None
    try:
        with place.finishing():
            place.tidy(complete=False)
            # Another share may just have finished it.
            return place.manifest() or finish(source, settings, job.environment, place)
    except BusyError:
        return None


def _complete(manifest: Manifest, settings: Settings, place: Place, share: Share | None) -> bool:
    """Whether nothing is missing of a data set that was complete; else it becomes an unfinished one."""
    if manifest.part_of is not None:
        raise StoreError(
            f"{place.name} is a part of another data set.",
            expected="a data set that was generated here",
            fix="`reinforce pull` fetches the rest; or choose another --out",
        )
    check_same_settings(manifest.settings, settings, place.name)
    if set(range(settings.num_blocks)) <= place.committed(settings):
        place.tidy(complete=True)
        return True
    # Someone removed a damaged block: the data set is not complete any more, and that block is made again.
    if share is not None:
        raise StoreError(
            f"{place.name} is complete, but blocks are missing.",
            cause="a damaged block was removed",
            fix="the same command without --share makes it again",
        )
    place.reopen(manifest)
    return False


def _job(settings: Settings, place: Place) -> Job:
    """The settings of this run, as they were written down when it began."""
    job = place.job()
    if job is None:
        if place.committed(settings):
            raise StoreError(
                f"{place.name} has blocks, and nothing that says what they are.",
                expected=f"{JOB} or {MANIFEST} beside them",
                cause="a file was removed",
                fix="choose another --out",
            )
        place.write_once(JOB, to_json(Job(settings=settings, environment=environment())).encode())
        job = place.job()
        assert job is not None
    check_same_settings(job.settings, settings, place.name)
    return job
