"""Flags from the fields of a dataclass, and a parser that learns some of its flags late."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, Literal


class CommandParser(argparse.ArgumentParser):
    """A command's parser.

    Attributes:
        prepare: called with the parser and the command's words before they are parsed, to add flags
            that would cost an import, or that depend on another flag.
    """

    prepare: Callable[[argparse.ArgumentParser, Sequence[str]], None] | None = None

    def parse_known_args(self, args=None, namespace=None):
        if self.prepare is not None:
            self.prepare(self, args)
        return super().parse_known_args(args, namespace)


def add_fields(parser: argparse.ArgumentParser, kind: type, prefix: str, but: tuple = ()) -> None:
    """Add --PREFIX.FIELD for the fields of a dataclass, with the help of its docstring.

    Understood are texts, numbers, choices (`Literal`), one of them or null, and sequences of them;
    other fields get no flag. `given` collects what the user wrote.
    """
    from photon.docstrings import arguments

    group = parser.add_argument_group(f"{kind.__name__} (--{prefix}.KEY VALUE)")
    helps, hints = arguments(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in but and (options := _options(hints[field.name])) is not None:
            text = helps.get(field.name, "").replace("%", "%%")
            if field.default not in (dataclasses.MISSING, None):
                text += f" ({field.default})"
            group.add_argument(
                f"--{prefix}.{field.name}", default=argparse.SUPPRESS, help=text, **options
            )


def given(args: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """The fields that the user set by flags of `add_fields`."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in vars(args).items() if k.startswith(start)}


def _options(hint: Any) -> dict[str, Any] | None:
    """What `add_argument` is to know of a type; None for one that flags cannot spell."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, UnionType) and type(None) in inner:
        (one,) = (option for option in inner if option is not type(None))
        options = _options(one)
        return options and _or_null(options)
    if typing.get_origin(hint) is Literal:
        return {"choices": inner}
    if typing.get_origin(hint) is Sequence:
        options = _options(inner[0])
        return options and {**options, "nargs": "+"}
    return {"type": hint, "metavar": hint.__name__.upper()} if hint in (str, int, float) else None


def _or_null(options: dict[str, Any]) -> dict[str, Any]:
    kind, choices = options.get("type", str), options.get("choices")

    def convert(text: str) -> Any:
        return None if text == "null" else kind(text)

    convert.__name__ = f"{kind.__name__} or null"
    if choices is None:
        return {**options, "type": convert}
    shown = f"{{{','.join(map(str, choices))},null}}"
    return {**options, "type": convert, "choices": (*choices, None), "metavar": shown}
