"""Class map: which of a teacher's classes each class of a data set is."""

from __future__ import annotations

import json
from pathlib import Path

from reinforce.errors import TeacherError, UsageError, shown
from reinforce.files import read_small
from reinforce.settings import TeacherInfo

MAX_BYTES = 16 << 20
"""Largest file of a class map that is read."""


def check_classes(info: TeacherInfo, class_names: list[str]) -> None:
    """Refuse a teacher whose classes are not those of the data set.

    Raises:
        TeacherError: another number of classes and no class map, or one that names classes the teacher does not have.
    """
    if info.class_map is not None:
        if max(info.class_map) >= info.num_classes or min(info.class_map) < 0:
            raise TeacherError(
                f"The class map names classes that {info.name} does not have.",
                found=f"{shown(min(info.class_map))} to {shown(max(info.class_map))}",
                expected=f"0 to {info.num_classes - 1}",
            )
    elif class_names and info.num_classes != len(class_names):
        raise TeacherError(
            f"{info.name} has {info.num_classes} classes and the data set has {len(class_names)}.",
            expected="the same classes in the same order, or a class map",
            cause="a teacher trained on a larger set of classes",
            fix="--class-map auto (folders named by WordNet id), --class-map FILE.json, or --teacher-kwargs num_classes=N",
        )


def read_class_map(class_map: str | None, class_names: list[str]) -> list[int] | None:
    """The teacher's class of each class of the data set.

    Args:
        class_map: None, `auto` (class names are WordNet ids), or the path of a JSON list of teacher classes.
        class_names: Classes of the data set.

    Raises:
        UsageError: a class map that cannot be read, or does not fit.
    """
    if class_map is None:
        return None
    if not class_names:
        raise UsageError("--class-map needs a labelled data set.", found="a folder without class folders")
    if class_map == "auto":
        return _imagenet_classes(class_names)
    try:
        indices = json.loads(read_small(Path(class_map), MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        found = "lists too deep inside of each other" if isinstance(error, RecursionError) else str(error)
        raise UsageError(
            f"The class map {class_map} cannot be read.", found=found, expected="a JSON list of numbers, or auto"
        ) from None
    if not isinstance(indices, list) or not all(type(i) is int for i in indices) or len(indices) != len(class_names):
        raise UsageError(
            f"The class map {class_map} does not fit the data set.",
            found=f"{len(indices)} entries" if isinstance(indices, list) else type(indices).__name__,
            expected=f"a JSON list of {len(class_names)} numbers: the teacher's class of each class folder, in sorted order",
        )
    return indices


def imagenet_wnids() -> list[str]:
    """WordNet ids of the classes of ImageNet-1k, in order."""
    from timm.data import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


def _imagenet_classes(class_names: list[str]) -> list[int]:
    by_wnid = {name: i for i, name in enumerate(imagenet_wnids())}
    unknown = [name for name in class_names if name not in by_wnid]
    if unknown:
        raise UsageError(
            "--class-map auto does not know all class folders.",
            found=f"{len(unknown)} of {len(class_names)}, such as {shown(unknown[0])}",
            expected="folders named by the WordNet ids of ImageNet-1k, such as n01440764",
            fix="--class-map FILE.json with the teacher's class of each folder, in sorted order",
        )
    return [by_wnid[name] for name in class_names]
