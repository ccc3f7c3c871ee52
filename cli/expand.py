"""Expand: an argument of a command that stands for the fields of a class, each of which becomes an option.

So an option whose name, type, default, bounds and help a class already defines is not written a second time. There are two
kinds of classes. Dataclasses of the command line have fields with types from `options.py`. Models of the library are named by
`FieldsOf` and imported only when the options are needed; those of their fields that have a description become options.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

from typer import Option


@dataclass(frozen=True)
class FieldsOf:
    """Marks an argument that stands for the fields of a model: `Annotated[dict[str, Any], FieldsOf("module:Class", "Panel")]`.

    Attributes:
        where: Module and class, with a colon between.
        panel: Panel of --help.
        overrides: Options that the user does not give are left out, and the class's defaults are not used.
    """

    where: str
    panel: str
    overrides: bool = False

    def parameters(self) -> list[inspect.Parameter]:
        """One option for each field that has a description."""
        module, _, name = self.where.partition(":")
        fields = getattr(import_module(module), name).__pydantic_fields__
        return [self._parameter(name, field) for name, field in fields.items() if field.description is not None]

    def _parameter(self, name: str, field: Any) -> inspect.Parameter:
        optional = self.overrides or type(None) in get_args(field.annotation)
        kind = _plain(field.annotation)
        flag = "--" + name.replace("_", "-")
        names = [] if kind is not bool else [f"{flag}/--no-{name.replace('_', '-')}"] if optional else [flag]
        bounds = {bound: getattr(each, key) for each in field.metadata for key, bound in _BOUNDS.items() if hasattr(each, key)}
        option = Option(*names, help=field.description, rich_help_panel=self.panel, **bounds)
        default = None if self.overrides else inspect.Parameter.empty if field.is_required() else field.default
        return _keyword(name, Annotated[kind | None if optional else kind, option], default)

    def collected(self, **values: Any) -> dict[str, Any]:
        """The dict that the command gets for this argument."""
        return {k: v for k, v in values.items() if v is not None} if self.overrides else values


_BOUNDS = {"ge": "min", "le": "max"}  # the model itself checks exclusive bounds


def _plain(hint: Any) -> Any:
    """The type of a value on the command line: the first one of a union, and never None; a tuple is a text with commas."""
    if get_origin(hint) in (Union, UnionType):
        return _plain(next(each for each in get_args(hint) if each is not NoneType))
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    return str if get_origin(hint) is tuple else hint


def _keyword(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _of_dataclass(kind: Any) -> list[inspect.Parameter]:
    hints, missing = get_type_hints(kind, include_extras=True), dataclasses.MISSING
    return [
        _keyword(f.name, hints[f.name], inspect.Parameter.empty if f.default is missing else f.default)
        for f in dataclasses.fields(kind)
    ]


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """The command in the form that typer needs: an argument that stands for several options is replaced by these options."""
    parameters: list[inspect.Parameter] = []
    parts: dict[
        str, tuple[list[str], Callable[..., Any]]
    ] = {}  # argument -> names of its options, and the function that makes the argument from their values
    for name, each in inspect.signature(command, eval_str=True).parameters.items():
        marks = [mark for mark in get_args(each.annotation)[1:] if isinstance(mark, FieldsOf)]
        own = [_keyword(name, each.annotation, each.default)]
        if marks:
            own = marks[0].parameters()
            parts[name] = [p.name for p in own], marks[0].collected
        elif dataclasses.is_dataclass(each.annotation):
            own = _of_dataclass(each.annotation)
            parts[name] = [p.name for p in own], cast(Callable[..., Any], each.annotation)
        parameters += own

    @functools.wraps(command)
    def run(**given: Any) -> None:
        made = {name: make(**{option: given.pop(option) for option in own}) for name, (own, make) in parts.items()}
        command(**given, **made)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
