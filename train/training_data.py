"""Training data: opens the images, the teacher's labels and the views that an epoch shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reinforce.errors import SourceError, UsageError
from reinforce.files import check_beside
from reinforce.packs.open_labels import match_keys, open_labels, packed
from reinforce.policy import Policy
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import CropLabels, DrawnLabels, HardLabels
from reinforce.replay.epoch_views import FreshViews, ReplayedViews, Views
from reinforce.sharing.cached import fetched
from reinforce.sharing.published import is_published
from reinforce.sources.open_source import open_source
from reinforce.sources.source import Source, check_outside
from reinforce.store.label_store import LabelStore
from reinforce.train.config import TrainConfig
from reinforce.train.evaluate import Validation
from reinforce.views.policy_text import read_policy


@dataclass
class TrainingData:
    """The data of a run.

    Attributes:
        source: The images.
        store: The teacher's stored labels; None without them.
        policy: The policy from which the views are drawn, or were drawn when the labels were made.
        size: Height and width of the views in pixels; if there are several sizes, the largest.
        views: The views of an epoch.
        class_names: Names of the classes; empty: unlabelled.
    """

    source: Source
    store: LabelStore | None
    policy: Policy
    size: int
    views: Views
    class_names: list[str]


def open_training_data(config: TrainConfig) -> TrainingData:
    """Open images and labels.

    Raises:
        ReinforceError: they cannot be opened, or do not fit the settings.
    """
    source = open_source(config.data, config.download)
    check_outside(source, config.out)
    check_beside(config.out, config.labels, "--labels")
    if source.has_labels:
        check_beside(config.out, config.data, "--data")
    store = _store(config, source)
    size = _size(config, store)
    views, class_names = _views(config, source, store, size)
    if config.mode != "plain" and config.recipe.weighs_hard_labels and not class_names:
        raise UsageError(
            "The recipe weighs hard labels, and there are none.",
            found=f"task_loss_weight = {config.recipe.task_loss_weight} and images without class folders",
            expected="a recipe that learns from the teacher alone, such as kd",
            fix="--task-loss-weight 0",
        )
    return TrainingData(source, store, _policy(config, store), size, views, class_names)


def labels_here(config: TrainConfig) -> str | Path | None:
    """The value of `--labels`; labels that were published at a URL are fetched first, as far as the run needs them.

    Raises:
        ReinforceError: they cannot be fetched, or are not what was published.
    """
    labels = config.labels
    if labels is None or not is_published(str(labels)):
        return labels
    # A map is one label per image, and modes other than replay read nothing but the table of samples.
    return fetched(str(labels), views=config.views if config.mode == "replay" else 1)


def open_validations(config: TrainConfig, data: TrainingData) -> dict[str, Validation]:
    """Validation sets by the prefix of their metrics; the prefix of the main set is empty."""
    folders = {**({"": config.val} if config.val is not None else {}), **{f"{k}_": v for k, v in config.more_val.items()}}
    sources = {name: open_source(folder, config.download) for name, folder in folders.items()}
    for source in sources.values():
        check_outside(source, config.out, "--val")
    return {
        name: Validation(
            source,
            data.class_names,
            data.views.num_classes,
            data.size,
            config.recipe.crop_pct,
            subset=bool(name),
        )
        for name, source in sources.items()
    }


def _store(config: TrainConfig, source: Source) -> LabelStore | None:
    in_shards = config.mode == "replay" and source.has_labels
    if config.labels is not None or in_shards:
        labels = labels_here(config)
        store = packed(source) if labels is None else open_labels(labels, source)
        if config.policy is not None and not store.kind.of_any_crop:
            raise UsageError(
                "--policy is given beside --labels.", expected="one of them: the labels belong to their own policy"
            )
        return store
    if config.mode == "replay":
        raise UsageError(
            "--mode replay needs stored labels.",
            found="no --labels",
            fix="--labels DIR, made by `reinforce generate`; shards with labels as --data; or --mode plain",
        )
    return None


def _policy(config: TrainConfig, store: LabelStore | None) -> Policy:
    """The policy of the views. Stored views have the policy of their labels; label maps allow any policy."""
    if store is not None and not store.kind.of_any_crop:
        return store.settings.policy if config.mode == "replay" else store.settings.policy.fresh
    return read_policy(config.policy or config.default_policy)


def _size(config: TrainConfig, store: LabelStore | None) -> int:
    """Input size of the student; if there are several sizes, the largest."""
    if config.sizes and config.size is not None:
        raise UsageError("--size is given beside --sizes.", expected="one of them")
    return max(config.sizes) if config.sizes else config.size or (store.settings.size if store else 224)


def _views(config: TrainConfig, source: Source, store: LabelStore | None, size: int) -> tuple[Views, list[str]]:
    """The views of an epoch and the class names.

    If there is a store, all modes use only the samples that have labels in it, so that the modes can be compared.
    """
    policy, dataset = _policy(config, store), None
    if config.mode == "replay":
        assert store is not None
        dataset = ReinforcedDataset(store, source, seed=config.seed, views=config.views, size=size)
        if not store.kind.of_any_crop:
            _refuse_unmixing(config, policy)
            return ReplayedViews(dataset), store.settings.source.class_names
    if store is not None:
        settings = store.settings
        samples, labels = match_keys(store, source, store.ok_samples), store.samples.labels[store.ok_samples]
        class_names, num_classes = settings.source.class_names, settings.num_classes
    else:
        samples, labels = np.arange(len(source)), np.array(source.labels or [-1] * len(source))
        class_names, num_classes = list(source.class_names), len(source.class_names)
    if config.mode == "plain" and not class_names:
        raise SourceError(
            f"{source.location} has no class folders, and --mode plain learns from hard labels.", fix="--mode replay or online"
        )
    if not num_classes:
        raise SourceError("The number of classes is not known.", found="no class folders and no --labels", fix="--labels DIR")
    labeller: DrawnLabels = HardLabels(labels) if dataset is None else CropLabels(dataset)
    decoded = None if dataset is None else dataset.decoded
    off = config.recipe.mixup_off_epoch
    return FreshViews(source, samples, labeller, policy, size, num_classes, config.seed, decoded, off), class_names


def _refuse_unmixing(config: TrainConfig, policy: Policy) -> None:
    """Stored views stay as the teacher saw them: a label of a mixed view says nothing about either image alone."""
    if config.recipe.mixup_off_epoch and (policy.mix is not None or policy.one_way):
        raise UsageError(
            "Mixing cannot be turned off in stored views.",
            found=f"mixup_off_epoch = {config.recipe.mixup_off_epoch}, and labels of views that the teacher saw mixed",
            expected="fresh views (label maps, --mode online or plain), or labels of a policy that does not mix",
            fix="--mixup-off-epoch 0",
        )
