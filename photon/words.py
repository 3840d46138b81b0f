"""KEY=VALUE words of a command line as the annotations of a dataclass want them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar

from photon.errors import InputError, did_you_mean

T = TypeVar("T")


def split_words(words: Sequence[str]) -> dict[str, str]:
    """["a=1", "b=2"] to {"a": "1", "b": "2"}. Raises InputError for a word without "="."""
    if wrong := [word for word in words if "=" not in word]:
        raise InputError(f"{wrong[0]}: write settings as KEY=VALUE")
    return dict(word.split("=", 1) for word in words)


def bind(kind: type[T], words: Mapping[str, str], name: str) -> T:
    """The dataclass `kind` from texts; InputError names what `name` does not take."""
    hints = typing.get_type_hints(kind)
    legal = [field.name for field in dataclasses.fields(kind)]
    for key in words:
        if key not in legal:
            keys = f"{', '.join(legal)}{did_you_mean(key, legal)}"
            raise InputError(f"{key}={words[key]}: {name} has the keys {keys}")
    try:
        return kind(**{key: parse(key, text, hints[key]) for key, text in words.items()})
    except ValueError as error:
        raise InputError(str(error)) from error


def parse(key: str, text: str, hint: Any) -> Any:
    """One word as the annotation wants it; "null" is None and commas separate a list."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else ()
    if type(None) in options:
        if text == "null":
            return None
        hint = next(option for option in options if option is not type(None))
    if typing.get_origin(hint) is Sequence:
        (inner,) = typing.get_args(hint)
        return tuple(parse(key, part.strip(), inner) for part in text.strip("[]").split(","))
    if typing.get_origin(hint) is Literal and text not in typing.get_args(hint):
        raise InputError(f"{key}={text}: legal values are {', '.join(typing.get_args(hint))}")
    if hint is bool and text not in ("true", "false"):
        raise InputError(f"{key}={text}: legal values are true, false")
    if hint is bool:
        return text == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise InputError(f"{key}={text}: is not {kind}") from None
    return text
