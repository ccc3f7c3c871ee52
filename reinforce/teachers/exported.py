"""Exported: teachers from one file, `pt2:FILE` of torch.export and `onnx:FILE`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reinforce.errors import TeacherError, UsageError, first_line
from reinforce.files import file_sha256
from reinforce.silence import no_log, no_warnings
from reinforce.teachers.own_model import Made, OwnModel, no_arguments, no_weights
from reinforce.teachers.teacher_spec import TeacherSpec


class Exported(OwnModel):
    """A program of `torch.export.save`. Such a file may hold pickles, which torch loads: it is code, like the user's own."""

    kind = "pt2"

    @classmethod
    def load(cls, spec: TeacherSpec, size: int) -> Made:
        path = _file(spec, cls.kind)
        try:
            return Made(_Program(path), None, None)
        except Exception as error:  # noqa: BLE001 - damaged files raise many kinds of errors
            raise TeacherError(
                f"{path} cannot be loaded.",
                found=first_line(error),
                expected="a file of torch.export.save",
                cause="a damaged file, or one of another version of torch",
                fix="export it again with the torch that is installed",
            ) from None


class _Program(nn.Module):
    """An exported program. One with a batch of any size takes two or more, since export makes constants of 0 and 1."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path.resolve()
        with no_warnings(), no_log("torch.export"):
            self.graph: Any = torch.export.load(self.path).module()
        for name in ("train", "eval"):  # which raise in exported programs; there is nothing that they would change
            vars(self.graph).pop(name, None)

    def __reduce__(self) -> tuple[type[_Program], tuple[Path]]:
        return type(self), (self.path,)  # another process loads the file: what torch makes of it cannot be sent

    def forward(self, images: torch.Tensor) -> Any:
        if len(images) > 1:
            return self.graph(images)
        found = self.graph(images.repeat(2, 1, 1, 1))
        return getattr(found, "logits", found)[:1]


class Onnx(OwnModel):
    """A network in a file of ONNX, run by onnxruntime."""

    kind = "onnx"
    runs_code = False

    @classmethod
    def load(cls, spec: TeacherSpec, size: int) -> Made:
        path = _file(spec, cls.kind)
        model = _Session(path)
        try:
            model.start(torch.device("cpu"))
        except ImportError:
            raise UsageError(
                f"{spec.name} needs onnxruntime.", found="no package onnxruntime", fix="pip install 'reinforce[onnx]'"
            ) from None
        except Exception as error:  # noqa: BLE001 - onnxruntime's own errors have no common base
            raise TeacherError(
                f"{path} cannot be loaded.",
                found=first_line(error),
                expected="a classifier in ONNX: float32 images in, logits out",
                cause="a damaged file, or its .data beside it is missing",
                fix="export it again",
            ) from None
        digest = hashlib.sha256(file_sha256(path).encode())
        if (beside := path.with_name(f"{path.name}.data")).is_file():
            digest.update(file_sha256(beside).encode())
        return Made(model, None, None, digest.hexdigest())

    def weights_sha256(self) -> str | None:
        return self.info.weights_sha256


class _Session(nn.Module):
    """A session of onnxruntime, which each process starts for itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path.resolve()
        self.session: Any = None
        self.on: torch.device | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "session": None, "on": None, "input": None}

    def start(self, device: torch.device) -> None:
        """Load the file for a device."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        wanted = ["CUDAExecutionProvider"] * (device.type == "cuda") + ["CPUExecutionProvider"]
        there = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self.session, self.on = onnxruntime.InferenceSession(str(self.path), options, providers=there), device
        (self.input,) = self.session.get_inputs()
        self.batch = self.input.shape[0] if isinstance(self.input.shape[0], int) else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.session is None or self.on != images.device:
            self.start(images.device)
        content = images.cpu().numpy().astype(np.float16 if "float16" in self.input.type else np.float32, copy=False)
        found = np.concatenate(
            [self._run(content[at : at + step]) for step in [self.batch or len(content)] for at in range(0, len(content), step)]
        )
        return torch.from_numpy(found).to(images.device)

    def _run(self, content: np.ndarray) -> np.ndarray:
        missing = (self.batch or 0) - len(content)  # a file for batches of one size gets the last one filled up
        if missing > 0:
            content = np.concatenate([content, np.zeros((missing, *content.shape[1:]), content.dtype)])
        found: np.ndarray = self.session.run(None, {self.input.name: content})[0]
        return found[: len(found) - missing] if missing > 0 else found


def _file(spec: TeacherSpec, kind: str) -> Path:
    """The file that a name means.

    Raises:
        UsageError: there is none, or options that do not go with it.
    """
    no_weights(spec)
    no_arguments(spec)
    path = Path(spec.name.removeprefix(f"{kind}:"))
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", found=spec.name, expected=f"{kind}:FILE", fix="check the path")
    return path
