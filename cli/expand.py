"""Expand: an argument of a command that stands for the fields of a class, each of which becomes an option.

So an option that a class already defines, name, type, default, bounds and help, is not written again. Two kinds of classes:
dataclasses of the command line, whose fields are typed as in `options.py`; and models of the library, named by `FieldsOf`
and imported when the options are asked for, whose fields are options where they have a description.
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
        overrides: What is not given is left out, whatever the class has as default.
    """

    where: str
    panel: str
    overrides: bool = False

    def parameters(self) -> list[inspect.Parameter]:
        """An option per described field."""
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
        """What the command is given."""
        return {k: v for k, v in values.items() if v is not None} if self.overrides else values


_BOUNDS = {"ge": "min", "le": "max"}  # what is exclusive is left to the model


def _plain(hint: Any) -> Any:
    """The type that is typed: the first of several, and never None."""
    if get_origin(hint) in (Union, UnionType):
        return _plain(next(each for each in get_args(hint) if each is not NoneType))
    return hint


def _keyword(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _of_dataclass(kind: Any) -> list[inspect.Parameter]:
    hints, missing = get_type_hints(kind, include_extras=True), dataclasses.MISSING
    return [
        _keyword(f.name, hints[f.name], inspect.Parameter.empty if f.default is missing else f.default)
        for f in dataclasses.fields(kind)
    ]


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer takes it, with options in place of the arguments that stand for several."""
    parameters: list[inspect.Parameter] = []
    parts: dict[str, tuple[list[str], Callable[..., Any]]] = {}  # argument -> its options, and what makes it of them
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
