"""What the bytes of soft labels are worth to a student: the same views, labels stored by several codecs, several seeds.

The labels are the teacher's over all of its classes; the student learns these, and is evaluated on the ten that the images
have. `--labels` is a store of the unlabelled images that holds every class (topk:1000); each variant is that store with its
labels put through another codec. Nothing else differs between two runs of one seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reinforce.files import file_sha256, write_atomic
from reinforce.labels.codecs import parse_codec
from reinforce.labels.fidelity import measure
from reinforce.labels.sparse import SparseLabels
from reinforce.settings import to_json
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block, BlockData, block_path, write_block
from reinforce.store.listing import list_files
from reinforce.store.store import MANIFEST, Store
from reinforce.teachers.models import create
from reinforce.train.config import TrainConfig
from reinforce.train.evaluate import Validation, classification_metrics
from reinforce.train.loop import train
from reinforce.train.ranks import Ranks
from reinforce.train.recipe import load_recipe
from reinforce.train.run import BEST

STUDENT = "mobilenetv3_small_050"
TOPK = [f"topk:{k}{how}" for k in (5, 10, 20) for how in ("", " dropped")]
VARIANTS = ("full", "sqrt-tiny", "sqrt", "sqrt-high", "sqrt-near", *TOPK)


def keep_top(k: int) -> Callable[[np.ndarray], np.ndarray]:
    """The transform of those who drop the remainder: nothing but the top k, scaled up to one."""

    def change(probs: np.ndarray) -> np.ndarray:
        least = np.sort(probs, axis=1)[:, -k][:, None]
        kept = np.where(probs >= least, probs, 0)
        return (kept / kept.sum(axis=1, keepdims=True)).astype(np.float32)

    return change


def encode_again(root: Path, out: Path, variant: str) -> dict[str, float]:
    """A copy of a store whose labels went through another codec; returns what they cost and lost."""
    name, _, dropped = variant.partition(" ")
    store = Store(root)
    codec = store.codec if name == "full" else parse_codec(name)
    change = keep_top(int(name.partition(":")[2])) if dropped else None
    shutil.copytree(root, out)
    sizes, kls, biases = 0, [], []
    for number in range(store.settings.num_blocks):
        old: Block = store.block(number)
        params, samples = old.params(), old.sample_columns()
        data = BlockData(
            params=params,
            probes=old.probes(),
            label_error=old.label_error(),
            sha256=samples["sha256"],
            crc32c=samples["crc32c"].clip(0).astype(np.uint32),
            width_height=samples["width_height"],
            status=samples["status"],
            reasons=old.reasons,
            records=[b""] * len(params),
        )
        for row, sample in enumerate(store.samples_of(number).tolist()):
            labels = store.labels_of(sample)
            true = SparseLabels.stack(labels, store.settings.num_classes).dense().numpy()
            data.records[row] = codec.encode(change(true) if change else true)
            sizes += len(data.records[row])
            lost = measure(codec, data.records[row], true)
            kls.append(lost.kl)
            biases.append(lost.image_bias)
        shutil.rmtree(block_path(out, number))
        write_block(out, number, data)
    settings = store.settings.model_copy(update={"codec": codec.to_dict()})
    files = {path: file_sha256(out / path) for path in list_files(out)}
    manifest = store.manifest.model_copy(update={"settings": settings, "files": files})
    write_atomic(out / MANIFEST, to_json(manifest).encode())
    kl = np.concatenate(kls)
    return {"bytes_per_view": sizes / kl.size, "kl": float(kl.mean()), "image_bias": float(np.mean(biases))}


def evaluate(weights: Path, val: Path, classes: list[int], size: int, num_classes: int) -> dict[str, float]:
    """Metrics of the student on its ten classes, and how far it is from what it could have learnt."""
    student = create(STUDENT, weights=weights, size=size, kwargs={"num_classes": num_classes}, pretrained=False)
    student.eval()
    mean, std = (torch.tensor(student.pretrained_cfg[k]).view(1, 3, 1, 1) * 255 for k in ("mean", "std"))
    source = ImageFolder.open(val)
    validation = Validation(source, list(source.class_names), len(classes), size, 0.875)
    outputs, labels = [], []
    with torch.no_grad():
        for images, hard in validation.batches(100, 0, Ranks(0, 1, torch.device("cpu"))):
            outputs.append(student((images.float() - mean) / std)[:, classes])
            labels.append(hard)
    return classification_metrics(torch.cat(outputs), torch.cat(labels))


def main() -> None:
    """Run the study and write study.json after every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the unlabelled images that the labels are of")
    parser.add_argument("--val", type=Path, required=True, help="labelled images, in class folders")
    parser.add_argument("--classes", type=int, nargs="+", required=True, help="teacher's class of each class folder")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, dict[str, Any]] = {}
    recipe = load_recipe("kd", {"epochs": args.epochs, "batch_size": 64, "lr": 2e-3, "warmup_epochs": 1})
    settings = Store(args.labels).settings
    for seed in range(args.seeds):
        for variant in VARIANTS:
            labels = args.out / variant.replace(":", "-").replace(" ", "-")
            if variant not in result:
                shutil.rmtree(labels, ignore_errors=True)
                result[variant] = {**encode_again(args.labels, labels, variant), "runs": []}
            run = args.out / "run"
            shutil.rmtree(run, ignore_errors=True)
            config = TrainConfig(
                student=STUDENT, data=args.data, out=run, recipe=recipe, labels=labels, seed=seed, device="cpu"
            )
            train(config)
            metrics = evaluate(run / BEST, args.val, args.classes, settings.size, settings.num_classes)
            result[variant]["runs"].append({"seed": seed, **metrics})
            print(variant, seed, metrics, flush=True)
            (args.out / "study.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
