"""Open teacher: from the names that a user gives to a teacher. `KIND:NAME` states the kind of a model; the default is timm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from reinforce.errors import TeacherError, UsageError
from reinforce.settings import Settings
from reinforce.teachers.class_map import check_classes, read_class_map
from reinforce.teachers.ensemble import Ensemble
from reinforce.teachers.exported import Exported, Onnx
from reinforce.teachers.own_code import OwnCode
from reinforce.teachers.teacher import Member, Teacher
from reinforce.teachers.teacher_spec import TeacherSpec, weights_of_each
from reinforce.teachers.timm_member import TimmMember

TEACHERS: dict[str, type[Member]] = {kind.kind: kind for kind in (TimmMember, OwnCode, Exported, Onnx)}


def kind_of_name(name: str) -> type[Member]:
    """The kind of model that a name means."""
    stated, colon, _ = name.partition(":")
    return TEACHERS[stated if colon and stated in TEACHERS else TimmMember.kind]


def open_member(spec: TeacherSpec, size: int, class_map: list[int] | None) -> Member:
    """The model that a user named; see `Member.open`."""
    return kind_of_name(spec.name).open(spec, size, class_map)


def load_teacher(
    specs: list[TeacherSpec],
    *,
    size: int,
    class_names: list[str],
    class_map: str | None,
    device: torch.device,
    precision: str,
) -> Teacher:
    """Load the teachers and fit their classes to the data set's.

    Args:
        specs: One per teacher.
        size: View size in pixels.
        class_names: Classes of the data set; empty where it is unlabelled (the teacher's classes are used then).
        class_map: None, `auto` (class names are WordNet ids), or the path of a JSON list of teacher classes.
        device: Where to run.
        precision: `fp32` or `bf16`.

    Raises:
        TeacherError: weights or classes do not fit.
        UsageError: an unknown model or a class map that cannot be read.
    """
    members = [open_member(s, size, read_class_map(class_map, class_names)) for s in specs]
    for member in members:
        check_classes(member.info, class_names)
    counts = {len(m.info.class_map) if m.info.class_map else m.info.num_classes for m in members}
    if len(counts) > 1:
        raise TeacherError(
            "The teachers do not have the same classes.", found=f"{sorted(counts)} classes", expected="one number"
        )
    return Ensemble(members, device, precision)


def teacher_of(settings: Settings, weights: Sequence[str | Path], device: torch.device, *, run_code: bool = False) -> Teacher:
    """The teacher that made a reinforced dataset, to run it again.

    Args:
        settings: Of the manifest: names, arguments, class maps, precision.
        weights: A local file per teacher, in order, or `N:FILE` for the Nth; the others have timm's published weights.
        device: Where to run.
        run_code: Whether a teacher that is code may run although only the manifest, which anybody may have written, names it.

    Raises:
        TeacherError: other weights than those that made the labels.
        UsageError: files that do not fit the teachers, or a teacher that is code.
    """
    if settings.origin is not None or any(t.weights_sha256 is None for t in settings.teachers):
        raise UsageError(
            "The teacher of these labels is not known well enough to run it again.",
            found="labels that were imported",
            fix="--teacher NAME for another one",
        )
    code = [info.name for info in settings.teachers if kind_of_name(info.name).runs_code]
    if code and not run_code:
        raise UsageError(
            "The teacher of these labels is code, which the data set alone names.",
            found=code[0],
            expected="your word that it is yours: whoever made the data set chose what would run",
            fix="--run-code, after a look at it; to train online, --teacher with the name",
        )
    members = []
    paths = weights_of_each(weights, [t.name for t in settings.teachers])
    for info, path in zip(settings.teachers, paths, strict=True):
        member = open_member(TeacherSpec(info.name, path, info.kwargs), settings.size, info.class_map)
        if member.info.weights_sha256 != info.weights_sha256:
            raise TeacherError(
                f"These weights of {info.name} are not those that made the labels.",
                found=f"sha256 {str(member.info.weights_sha256)[:16]}...",
                expected=f"sha256 {str(info.weights_sha256)[:16]}...",
                cause="labels from a local weights file, or weights that were published anew",
                fix="--teacher-weights FILE with the weights used at generation",
            )
        members.append(member)
    return Ensemble(members, device, settings.precision)
