"""Models: timm models by name, their weights from a local file or the hub, and the hash that identifies weights.

Weights are read from safetensors, or from torch files by `torch_file.py`: nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn

from reinforce.errors import StoreError, TeacherError, UsageError, first_line, shown
from reinforce.settings import Scalar
from reinforce.silence import no_log
from reinforce.teachers.safetensors_header import check_header
from reinforce.teachers.short_names import timm_name
from reinforce.teachers.torch_file import read_torch

ELSEWHERE = ("hf-hub:", "local-dir:")
"""What timm takes in front of a name for a model that is not its own: a repository of the Hub, or a folder."""


class Options(NamedTuple):
    """The options of the command line that a model comes from; errors name them.

    Attributes:
        kwargs: Option of further arguments.
        weights: Option of a file with weights.
        misfit: What helps if the weights do not fit.
    """

    kwargs: str
    weights: str
    misfit: str


OF_TEACHER = Options("--teacher-kwargs", "--teacher-weights", "--teacher-kwargs, for instance num_classes=10 or pad_type=same")
OF_STUDENT = Options(
    "--student-kwargs",
    "--initial-checkpoint",
    "--student-kwargs, for instance pad_type=same; or --pretrained, which gives timm's weights a head for these classes",
)


def create(
    name: str,
    *,
    weights: Path | None,
    size: int,
    kwargs: dict[str, Scalar],
    pretrained: bool,
    options: Options = OF_TEACHER,
) -> nn.Module:
    """Create a timm model.

    Args:
        name: timm name or short name.
        weights: File with a state dict; the number of classes is taken from it unless `kwargs` says otherwise.
        size: Input height and width in pixels; passed on to models that are built for one size.
        kwargs: Further arguments of `timm.create_model`.
        pretrained: Load timm's published weights when `weights` is None.
        options: The options that `weights` and `kwargs` come from.

    Raises:
        UsageError: no such model, or an argument it does not take.
        TeacherError: the weights cannot be had or do not fit.
    """
    full_name = timm_name(name)
    elsewhere = name.startswith(ELSEWHERE)
    if not elsewhere and not timm.is_model(full_name):
        base = full_name.split(".")[0]
        near = timm.list_models(f"*{base[:8]}*")[:5]
        raise UsageError(
            f"timm has no model {name!r}.",
            expected="a name of timm.list_models()",
            fix="one of " + ", ".join(near) if near else None,
        )
    arguments: dict[str, Any] = dict(kwargs)
    config = None if elsewhere else published(full_name)
    if config is not None and getattr(config, "fixed_input_size", False) and config.input_size[-1] != size:
        arguments.setdefault("img_size", size)
    state = read_state_dict(weights) if weights is not None else None
    if state is not None and config is not None and "num_classes" not in arguments:
        classes = _head_classes(state, config.classifier)
        if classes is not None:
            arguments["num_classes"] = classes
    model = _create(full_name, pretrained and state is None, arguments, options)
    if state is not None:
        _load(model, state, weights, options)
    return model


def load_weights(model: nn.Module, path: Path, options: Options) -> None:
    """Load a file of weights into a model.

    Raises:
        TeacherError: it cannot be read, or does not fit.
    """
    _load(model, read_state_dict(path), path, options)


def published(name: str) -> PretrainedCfg | None:
    """What timm says of the weights that it publishes of a model; None: it does not know the model, or publishes none.

    Raises:
        UsageError: the model is known, and its tag is not.
    """
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{name.split('.')[0]}.*")
        raise UsageError(
            f"timm has no weights {name!r}.",
            found=str(error),
            expected=", ".join(tags) or "a name without a tag: nothing is published of this model",
        ) from None


@torch.no_grad()
def require_logits(model: nn.Module, size: int, option: str, num_classes: int | None = None) -> None:
    """Refuse a model that does not make logits of views; leaves it in evaluation mode.

    Args:
        model: Made by `create`.
        size: Height and width of the views in pixels.
        option: Where its arguments came from, for the error.
        num_classes: How many logits; None: any number.

    Raises:
        UsageError: it cannot take such views, or gives something else.
    """
    shape: list[int] = []
    try:
        output = model.eval()(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
        shape = list(output.shape) if isinstance(output, torch.Tensor) else []
        found = f"an output of shape {shape}" if shape else f"a {type(output).__name__}"
    except Exception as error:  # noqa: BLE001 - whatever a model raises
        found = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    if len(shape) != 2 or num_classes not in (None, shape[1]):
        raise UsageError(
            f"The model makes no logits of views of {size}x{size} pixels.",
            found=found,
            expected=f"[1, {num_classes or 'classes'}] from [1, 3, {size}, {size}]",
            cause="an argument that changes what goes in or comes out, or a size that the model does not take",
            fix=f"check {option} and --size",
        )


def _create(name: str, pretrained: bool, arguments: dict[str, Any], options: Options) -> nn.Module:
    try:
        with no_log("timm"):
            return timm.create_model(name, pretrained=pretrained, **arguments)
    except TypeError as error:
        raise UsageError(f"{name} does not take these arguments.", found=str(error), fix=f"check {options.kwargs}") from None
    except Exception as error:  # noqa: BLE001 - whatever a model raises while it is made or loaded
        if not pretrained:
            raise UsageError(f"{name} cannot be created with {arguments}.", found=f"{type(error).__name__}: {error}") from None
        raise TeacherError(
            f"The published weights of {name} cannot be loaded.",
            found=first_line(error),
            cause="no network, or no published weights under this name",
            fix=f"{options.weights} FILE with a local state dict, or a tagged name such as resnet50.a1_in1k",
        ) from None


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict from a safetensors or torch file.

    Raises:
        TeacherError: no such file, not a state dict, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise TeacherError(f"There is no weights file {path}.", fix="check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            check_header(path)
            content: Any = load_file(path)
        else:
            content = read_torch(path)
    except Exception as error:  # noqa: BLE001 - damaged files raise many kinds of errors
        # Of an error of ours, what was found; of others, which kind it is too.
        reason = str(error).splitlines()[1].partition(":")[2].strip() if isinstance(error, StoreError) else first_line(error)
        raise TeacherError(
            f"{path} cannot be read as weights.",
            found=reason,
            expected="a safetensors file, or a torch file of tensors and plain data",
            cause="a damaged file, or a pickle with arbitrary objects, which is never loaded",
            fix="save model.state_dict() again, best as safetensors",
        ) from None
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items())
    ):
        raise TeacherError(f"{path} holds no state dict.", found=type(content).__name__, expected="names and tensors")
    return {k.removeprefix("module."): v for k, v in content.items()}


def _head_classes(state: dict[str, torch.Tensor], classifier: object) -> int | None:
    names = classifier if isinstance(classifier, (tuple, list)) else [classifier]
    weight = state.get(f"{names[0]}.weight") if names and names[0] else None
    return None if weight is None or weight.ndim < 1 or not len(weight) else int(weight.shape[0])


def _load(model: nn.Module, state: dict[str, torch.Tensor], path: Path | None, options: Options) -> None:
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{k}: {list(state[k].shape)} in the file, {list(v.shape)} in the model"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    if missing or extra or shapes:
        parts = [f"{len(missing)} missing ({missing[0]}, ...)"] if missing else []
        parts += [f"{len(extra)} unknown ({shown(extra[0])[1:-1]}, ...)"] if extra else []
        parts += [f"{len(shapes)} of another shape ({shapes[0]})"] if shapes else []
        raise TeacherError(
            f"The weights in {path} do not fit the model.",
            found="; ".join(parts),
            expected=f"the {len(wanted)} tensors of the model, no more and no less",
            cause="another model, another number of classes, another view size, or missing model arguments",
            fix=options.misfit,
        )
    model.load_state_dict(state)


def weights_sha256(model: nn.Module) -> str:
    """Hash of a model's weights, independent of the file they came from: names, dtypes, shapes and bytes, by sorted name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def parse_kwargs(items: list[str], option: str) -> dict[str, Scalar]:
    """Read `key=value` items; values are JSON where they parse as such, text otherwise.

    Raises:
        UsageError: an item without `=`, or a value that is no scalar.
    """
    parsed: dict[str, Scalar] = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator or not key.isidentifier():
            raise UsageError(f"{option} {item!r} is not valid.", expected="key=value", fix=f"{option} pad_type=same")
        try:
            value = json.loads(text.lower() if text in ("True", "False", "None") else text)
        except ValueError:
            value = text
        if isinstance(value, (dict, list)):
            raise UsageError(f"{option} {item!r} is not valid.", expected="a number, true, false, null or text")
        parsed[key] = value
    return parsed
