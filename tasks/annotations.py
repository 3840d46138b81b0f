"""Plain values against type annotations, as far as a configuration file can get them wrong."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return typing.get_args(hint)
    return (hint,)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can stand for an annotation; True where that cannot be told."""
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    return any(_fits_one(value, option) for option in options(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    if hint in (int, float):
        numbers = int if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    kind = origin or hint
    if not inspect.isclass(kind):
        return True
    if issubclass(kind, tuple) and inner and inner[-1] is not Ellipsis:
        sized = isinstance(value, list | tuple) and len(value) == len(inner)
        return sized and all(fits(item, one) for item, one in zip(value, inner))
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if issubclass(kind, Sequence) or kind in (set, frozenset):
        of = inner[0] if inner else Any
        return isinstance(value, list | tuple) and all(fits(item, of) for item in value)
    # Paths are written as strings; a scalar for any other class is a mistake only if None is.
    return value is not None


def literals(hint: Any) -> list[str]:
    return [
        str(value)
        for option in options(hint)
        if typing.get_origin(option) is Literal
        for value in typing.get_args(option)
    ]


def spell(hint: Any) -> str:
    names = []
    for option in options(hint):
        if typing.get_origin(option) is Literal:
            names += [repr(value) for value in typing.get_args(option)]
        elif option is NoneType:
            names.append("null")
        elif typing.get_origin(option) is not None:
            names.append(str(option).replace("typing.", ""))
        else:
            names.append(getattr(option, "__name__", str(option)))
    return " or ".join(names)
