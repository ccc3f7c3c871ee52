"""Estimate: what a reinforced dataset would cost in hours and bytes, and after how many students it pays, from a trial run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import torch

from reinforce.errors import SourceError
from reinforce.generation.engine import AS_SUITS, Execution
from reinforce.generation.generate import generate
from reinforce.generation.ready_batches import ready_batches
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.listing import bytes_per_view
from reinforce.teachers.device import default_workers
from reinforce.teachers.teacher import Teacher, labeller_of
from reinforce.views.pixels import ViewMaker

_FIRST_TRIAL = 4


@dataclass(frozen=True)
class Rates:
    """What a trial measured.

    Attributes:
        generate: Views per second of stage one, decoding and encoding included.
        teacher: Views per second of the teacher alone.
        decode: Views per second that one core decodes.
        label_bytes: Labels, bytes per view.
        params_bytes: Params, bytes per view.
        images: Images of the trial, each with all its views.
    """

    generate: float
    teacher: float
    decode: float
    label_bytes: float
    params_bytes: float
    images: int


@dataclass(frozen=True)
class Throughput:
    """Views per second of stage one on several devices of one machine.

    Attributes:
        devices: What the teachers of all devices label.
        cores: What all cores decode; None: where the teachers compute on the same cores, `devices` has it.
    """

    devices: float
    cores: float | None

    @property
    def views(self) -> float:
        """The lower of both."""
        return self.devices if self.cores is None else min(self.devices, self.cores)


@dataclass(frozen=True)
class Cost:
    """The cost of a reinforced dataset.

    Attributes:
        views: Views in all.
        hours: Of stage one.
        gigabytes: Of labels and params, 10^9 bytes.
        online_hours: What a live teacher adds to the training of each student.
        students: After so many students stage one has paid: `hours` divided by `online_hours`.
    """

    views: int
    hours: float
    gigabytes: float
    online_hours: float
    students: float


def in_this_process(execution: Execution, device: torch.device) -> Execution:
    """The same with one process, this one: others, and clusters, take longer to start than a trial takes."""
    workers = default_workers(device) if execution.workers == AS_SUITS else execution.workers
    return replace(execution, engine="local", devices=(), address=None, workers=workers)


def measure_rates(source: Source, teacher: Teacher, settings: Settings, execution: Execution, seconds: float) -> Rates:
    """Run stage one on a few images of `source` for about `seconds`, and the teacher alone for a fifth of that.

    It runs in this process, on the teacher's device, whatever `execution` says: `throughput` tells of several devices.
    """
    execution = in_this_process(execution, teacher.device)
    count = min(_FIRST_TRIAL, len(source))
    with tempfile.TemporaryDirectory() as scratch:
        while True:
            begun = time.perf_counter()
            part = source.take([i * len(source) // count for i in range(count)])
            about = settings.source.model_copy(update={"num_samples": count, "index_sha256": part.index_sha256()})
            out = Path(scratch, str(count))
            manifest = generate(part, teacher, settings.model_copy(update={"source": about}), out, execution)
            took = time.perf_counter() - begun
            wanted = min(len(source), int(count * seconds / took))
            if wanted < 2 * count:  # the time is used up, or there are no more images
                break
            count = wanted
        if not manifest.counts.ok:
            raise SourceError(
                f"None of {count} images of {source.location} can be used.",
                found=f"{manifest.counts.missing} missing, {manifest.counts.corrupt} corrupt",
                fix="check --data",
            )
        views = manifest.counts.ok * settings.views
        sizes = bytes_per_view(out, manifest.files, views)
    labeller, passes = labeller_of(teacher, settings), 0
    batches, begun = ready_batches(source, settings, execution.batch_size), time.perf_counter()
    while not passes or time.perf_counter() - begun < seconds / 5:
        batch = batches[passes % len(batches)]
        labeller(batch).cpu()
        passes += 1
    alone = passes * len(batches[0]) / (time.perf_counter() - begun)
    decode = _decode_rate(source, settings, seconds / 10)
    return Rates(views / took, alone, decode, sizes["labels"], sizes["params"], count)


def _decode_rate(source: Source, settings: Settings, seconds: float) -> float:
    """Views per second that this process makes with one thread, as a decoding process does."""
    maker, made, threads = ViewMaker(source, settings), 0, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begun = time.perf_counter()
        for index in cycle(range(len(source))):
            made += len(maker[index].pixels)
            if made and time.perf_counter() - begun >= seconds:
                break
        return made / (time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)


def throughput(rates: Rates, devices: int, cores: int, on_cpu: bool) -> Throughput:
    """What `devices` devices like the one of the trial reach, with `cores` cores that decode for all of them.

    Args:
        rates: Of the trial.
        devices: How many.
        cores: Cores of the machine.
        on_cpu: The teacher computes on the CPU: each device is then a machine like the one of the trial.
    """
    if on_cpu:
        return Throughput(devices * rates.generate, None)
    return Throughput(devices * rates.teacher if devices > 1 else rates.generate, cores * rates.decode)


def cost(rates: Rates, samples: int, views: int, epochs: int, reached: Throughput | None = None) -> Cost:
    """The cost of `views` views per sample, compared with students that ask a live teacher in each of `epochs` epochs.

    Args:
        rates: Of the trial.
        samples: Images.
        views: Of each.
        epochs: That a student trains for, on one device.
        reached: By several devices; default: the trial's own rate.
    """
    total = samples * views
    rate = rates.generate if reached is None else reached.views
    hours, online = total / rate / 3600, samples * epochs / rates.teacher / 3600
    return Cost(total, hours, total * (rates.label_bytes + rates.params_bytes) / 1e9, online, hours / online)


def affordable_views(gpu_hours: float, views_per_second: float, samples: int) -> int:
    """How many views per sample a device can make in `hours`, at `rate` views per second."""
    return int(gpu_hours * 3600 * views_per_second // samples)
