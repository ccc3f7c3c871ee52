"""Card: the description of a published data set at its location, README.md for people and croissant.json for programs.

Sources: the Hub's metadata of dataset cards; Croissant 1.1 (MLCommons).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from reinforce.labels.label_kind import kind_of
from reinforce.settings import Settings
from reinforce.sharing.preview import SCHEMA
from reinforce.sharing.publication import PREVIEW, Licences
from reinforce.store.manifest import Manifest, Statistics

_LICENCES = {
    "apache-2.0",
    "mit",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc0-1.0",
    "bsd-3-clause",
    "odc-by",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(manifest: Manifest, name: str, licences: Licences, files: dict[str, bytes], url: str, date: str) -> bytes:
    """The description in Croissant's JSON-LD, with the preview as its record set.

    Args:
        manifest: Manifest of the data set.
        name: Name of the data set.
        licences: Licences that the publisher stated.
        files: Path to content of the plain files at the location.
        url: The location.
        date: Date of publication, YYYY-MM-DD.
    """
    objects = [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "contentSize": f"{len(content)} B",
            "encodingFormat": "application/x-parquet" if path.endswith(".parquet") else "application/json",
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for path, content in files.items()
    ]
    about: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": summary_line(manifest),
        "url": url,
        "license": licences.labels,
        "citeAs": f"{name}, a reinforced dataset",
        "version": "1.0.0",
        "datePublished": date,
        "distribution": objects,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "preview",
                "name": "preview",
                "description": "Some samples and views: hard label, the teacher's five likeliest classes, crop box in pixels.",
                "field": [_field(f.name, str(f.type)) for f in SCHEMA],
            }
        ],
    }
    return (json.dumps(about, indent=2) + "\n").encode()


def _field(name: str, kind: str) -> dict[str, Any]:
    inner = kind.partition("<")[2]
    types = {"string": "sc:Text", "int32": "sc:Integer", "float": "sc:Float"}
    found = next(value for key, value in types.items() if key in (inner or kind))
    source = {"fileObject": {"@id": PREVIEW}, "extract": {"column": name}}
    field = {"@type": "cr:Field", "@id": f"preview/{name}", "name": name, "dataType": found, "source": source}
    return field | ({"repeated": True} if inner else {})


def summary_line(manifest: Manifest) -> str:
    """One sentence that says what the data set is."""
    settings = manifest.settings
    what = kind_of(settings.codec).about(settings)
    teachers = " and ".join(t.name for t in settings.teachers)
    return f"A reinforced dataset: {what}, for {manifest.counts.ok:,} images, by {teachers}."


def card(manifest: Manifest, name: str, licences: Licences, size: int, where: str, with_images: bool = False) -> str:
    """The README of a published data set, with the Hub's metadata at its top.

    Args:
        manifest: Manifest of the data set.
        name: Name of the data set.
        licences: Licences that the publisher stated.
        size: Bytes of all files at the location.
        where: The location, as `reinforce pull` takes it.
        with_images: Whether it is a pack, with the images in its shards.
    """
    settings, statistics = manifest.settings, manifest.statistics
    parts = {
        "metadata": _metadata(manifest, name, licences),
        "policy": str(settings.policy),
        "views": kind_of(settings.codec).count(settings),
        "images": f"{manifest.counts.ok:,} with labels, {manifest.counts.missing} missing, {manifest.counts.corrupt} corrupt",
        "classes": str(settings.num_classes),
        "codec": " ".join(str(v) for v in settings.codec.values()),
        "size": f"{size / 1e6:,.1f} MB, {size / max(1, manifest.counts.ok * settings.views):.1f} bytes per view",
        "pixels": _pixels(settings),
        "top class": (
            "none" if statistics.top1_probability is None else f"probability {statistics.top1_probability:.3f} on average"
        )
        + (f", the hard label in {100 * statistics.hard_label_agreement:.1f} %" if statistics.hard_label_agreement else ""),
        "lost by the codec": _lost(statistics),
        "precision": settings.precision,
        "made with": ", ".join(f"{k} {v}" for k, v in manifest.environment.model_dump().items()),
    }
    metadata = parts.pop("metadata")
    table = "\n".join(f"| {k} | {v} |" for k, v in parts.items())
    teachers = "\n".join(
        f"- `{t.name}`, {t.num_classes} classes, mean {t.mean}, std {t.std}, weights sha256 `{t.weights_sha256 or 'not known'}`"
        for t in settings.teachers
    )
    return f"""{metadata}
# {name}

{summary_line(manifest)} {_WITH_IMAGES if with_images else _WITHOUT_IMAGES}

## How to use it

```bash
pip install reinforce
{_usage(name, where, with_images)}
```

## What is in it

| | |
|---|---|
{table}

Teachers, whose softmaxes are averaged at temperature {settings.temperature:g}:

{teachers}

{_FILES_WITH_IMAGES if with_images else _FILES}

## Licences

Three things, three licences:

- labels and params in this data set: {licences.labels}
- the images, which are {"" if with_images else "not "}in it: {licences.images}
- the teacher's weights, which are not in it: {licences.teacher}
"""


_WITHOUT_IMAGES = """It has no pixels: whoever has the images trains any timm student on exactly the
views that the teacher saw, at the price of plain training."""
_WITH_IMAGES = """Its webdataset shards have the images too: any timm student trains on exactly
the views that the teacher saw, at the price of plain training."""
_FILES = """`preview.parquet` shows a few samples: hard label, the five likeliest classes, crop boxes. `publication.json` has
the size and sha256 of every file. `reinforce pull --views N` fetches the first N views only. Images are found by key, the
path below the folder without suffix, and checked by hash."""
_FILES_WITH_IMAGES = """`KEY.jpg`, `KEY.cls` and `KEY.rein` of each sample stand in the shards; `pack.json` has the sha256 of
every file."""


def _usage(name: str, where: str, with_images: bool) -> str:
    lines = [f"reinforce pull {where} --out {name}"]
    images = "" if with_images else " --data IMAGES"
    lines.append(f"reinforce verify {name}{images}")
    data = f"--data {name}" if with_images else f"--data IMAGES --labels {name}"
    return "\n".join([*lines, f"reinforce train --student resnet50 {data} --out runs/student"])


def _lost(statistics: Statistics) -> str:
    if not statistics.codec_samples:
        return "not measured"
    return "infinitely many nats" if statistics.codec_kl is None else f"{statistics.codec_kl:.4f} nats"  # null: infinity


def _pixels(settings: Settings) -> str:
    size = f"{settings.size} x {settings.size}"
    if settings.origin is None:
        return f"{size}, uint8, replayed from the images byte for byte"
    error = settings.origin.replay_error
    measured = "" if error is None else f"; {error}"
    return f"{size}, made by {settings.origin.pixels}; replay: {settings.origin.replay}{measured}"


def _metadata(manifest: Manifest, name: str, licences: Licences) -> str:
    known = licences.labels.lower()
    count = manifest.counts.ok
    size = next((text for limit, text in _SIZES if count < limit), "n>10M")
    lines = [
        "---",
        f"pretty_name: {json.dumps(name)}",
        f"license: {known if known in _LICENCES else 'other'}",
        *([] if known in _LICENCES else [f"license_name: {json.dumps(licences.labels)}"]),
        "task_categories:",
        "- image-classification",
        "size_categories:",
        f"- {size}",
        "tags:",
        "- knowledge-distillation",
        "- soft-labels",
        "- reinforce",
        *[f"- {json.dumps('teacher:' + t.name)}" for t in manifest.settings.teachers],
        "configs:",
        "- config_name: preview",
        "  data_files: preview.parquet",
        "---",
    ]
    return "\n".join(lines) + "\n"
