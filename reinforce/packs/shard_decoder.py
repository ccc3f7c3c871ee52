"""Shard decoder: views and soft labels for training code that streams packed shards with webdataset alone.

decode = ShardDecoder("runs/shards")
for sample in webdataset.WebDataset("runs/shards/shards-{000000..000007}.tar"):
    image, soft_label, hard_label = decode(sample, view=0)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from reinforce.errors import StoreError, UsageError
from reinforce.labels.codecs import codec_from_dict
from reinforce.labels.sparse import SparseLabels
from reinforce.packs.packed_store import labels_manifest
from reinforce.packs.rein_file import ReinFile
from reinforce.sources.pack_folder import pack_beside
from reinforce.sources.source import IMAGE_SUFFIXES
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.layout import pixel_spec
from reinforce.views.params import Field, PixelSpec


class ShardDecoder:
    """Turns a sample of webdataset (a mapping from extension to bytes) into a view with its labels.

    Args:
        location: Folder or URL of the shards, where `pack.json` is.

    Raises:
        UsageError: there are no labels; or views are mixed with other samples, which a stream of single samples cannot do.
    """

    def __init__(self, location: str) -> None:
        folder = pack_beside(f"{location.rstrip('/')}/pack.json")
        manifest = None if folder is None else labels_manifest(folder.pack)
        if manifest is None:
            raise UsageError(
                f"There are no shards with labels in {location}.", fix="reinforce pack LABELS --data SOURCE --out DIR"
            )
        self.manifest = manifest
        self.settings = self.manifest.settings
        if self.settings.policy.mix is not None or Field.OTHER in manifest.params_fields:
            raise UsageError(
                "Views of these shards are mixed with other samples.",
                found=f"policy {self.settings.policy.name}",
                expected="a loader that brings both members of a pair into one batch",
                fix="reinforce train --data SHARDS, or reinforce.ReinforcedDataset(SHARDS)",
            )
        self.codec = codec_from_dict(self.settings.codec)
        spec = pixel_spec(self.settings.policy, self.settings.size)
        self.spec = PixelSpec(spec.size, tuple(self.manifest.params_fields), spec.fill, spec.erase_fill)

    @property
    def views(self) -> int:
        """V, the number of stored views."""
        return self.settings.views

    def __call__(self, sample: Mapping[str, bytes], view: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """One view.

        Returns:
            Image uint8 `[3, size, size]`, soft label float32 `[C]`, hard label (-1: there is none).

        Raises:
            StoreError: the sample has no image or no `.rein`, or its `.rein` is damaged.
        """
        image = next((content for name, content in sample.items() if f".{name}" in IMAGE_SUFFIXES), None)
        if image is None or "rein" not in sample:
            raise StoreError(
                "A sample has no image or no .rein.", found=", ".join(sample), expected="jpg (or png, ...) and rein"
            )
        rein = ReinFile.parse(sample["rein"])
        stripe, own = divmod(view, rein.stripe_views)
        pixels = apply(decode(image), rein.params(view), self.spec)
        label = self.codec.decode(rein.record(stripe), own, rein.views_of_stripe(stripe), self.settings.num_classes)
        return pixels, SparseLabels.stack([label], self.settings.num_classes).dense()[0], int(sample.get("cls", b"-1"))
