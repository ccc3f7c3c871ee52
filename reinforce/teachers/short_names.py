"""Short names of timm models, as DESIGN and the recipes use them. Any other name goes to timm as it is."""

from __future__ import annotations

SHORT_NAMES = {
    "tresnet_l": "tresnet_v2_l.miil_in21k_ft_in1k",
    "tresnet_m": "tresnet_m",
    "volo_d1": "volo_d1_224",
    "vit_s": "vit_small_patch16_224",
    "vit_ti": "vit_tiny_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "swin_s": "swin_small_patch4_window7_224",
    "mixer_b": "mixer_b16_224",
    "resmlp_12": "resmlp_12_224",
    "mobilenetv3_large": "mobilenetv3_large_100",
}


def timm_name(name: str) -> str:
    """The timm name that a short name stands for."""
    return SHORT_NAMES.get(name, name)
