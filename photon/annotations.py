"""Plain values against type annotations, as far as a file of settings can get them wrong.

A range stands beside the field that it is for: `tau: Positive`, `low: Annotated[int, Range(1, 9)]`.
Nothing here reads a file or knows of a configuration: `mistakes` takes a value, an annotation and
the key that a message names.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal

from photon.errors import did_you_mean


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `above` and `below` leave out the ends themselves."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        return f"in {'[('[self.above]}{self.low:.10g}, {self.high:.10g}{'])'[self.below]}"


Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
Fraction = Annotated[float, Range(0, 1, below=True)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Whole = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
# How much is kept: a share of the tokens, or a number of them.
Budget = PositiveShare | Count


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return typing.get_args(hint)
    return (hint,)


def hints_of(target: Any) -> dict[str, Any]:
    """Annotations by argument or field; empty where a library's cannot be evaluated."""
    plain = inspect.isclass(target) and not (
        dataclasses.is_dataclass(target) or typing.is_typeddict(target)
    )
    try:
        return typing.get_type_hints(target.__init__ if plain else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def mistakes(key: str, value: Any, hint: Any) -> Iterator[str]:
    """What is wrong with one plain value, a line each: key, value and what is legal.

    A mapping is looked into where the annotation says what lies in it: a TypedDict (keys that it
    does not name may hold anything), a Mapping with a type of its values, or a dataclass.
    """
    if isinstance(value, Mapping) and "_target_" not in value:
        for option in options(hint):
            if typing.is_typeddict(option):
                yield from _of_fields(key, value, option, open_ended=True)
                return
            if dataclasses.is_dataclass(option):
                yield from of_dataclass(key, value, option)
                return
            inner = typing.get_args(option)
            if len(inner) == 2 and _is_class(option, Mapping):
                for name, child in value.items():
                    yield from mistakes(f"{key}.{name}".lstrip("."), child, inner[1])
                return
    if not fits(value, hint):
        near = did_you_mean(value, literals(hint)) if isinstance(value, str) else ""
        yield f"{key}: {value!r} is not {spell(hint)}{near}"


def check(owner: Any) -> None:
    """Raise ValueError where a field of a dataclass is not what its annotation allows."""
    for name, hint in hints_of(type(owner)).items():
        for text in mistakes(name, getattr(owner, name), hint):
            raise ValueError(f"{type(owner).__name__}: {text}")


def of_dataclass(key: str, value: Mapping[str, Any], kind: type) -> Iterator[str]:
    """Mistakes of the fields of a dataclass; where there are none, what it says of them itself."""
    found = list(_of_fields(key, value, kind))
    if not found:
        try:
            kind(**value)
        except (ValueError, TypeError) as error:
            found = [_under(key, str(error))]
    yield from found


def _under(key: str, text: str) -> str:
    """A message of a dataclass, which knows its own name at most, with the whole key."""
    above, _, own = key.rpartition(".")
    if key in text:
        return text
    return f"{above}.{text}".lstrip(".") if text.startswith(f"{own}.") else f"{key}: {text}"


def _of_fields(
    key: str, value: Mapping[str, Any], kind: type, open_ended: bool = False
) -> Iterator[str]:
    hints = hints_of(kind)
    for name, child in value.items():
        full = f"{key}.{name}" if key else str(name)
        if name in hints:
            yield from mistakes(full, child, hints[name])
        elif not open_ended:
            near = did_you_mean(name, hints)
            yield f"{full}: {kind.__name__} has no argument {name!r}{near}"
    for name in sorted(required(kind) - set(value)):
        yield f"{key}.{name}: {kind.__name__} needs a value for it".lstrip(".")


def required(kind: type) -> set[str]:
    """Fields of a dataclass or TypedDict that must be given."""
    if typing.is_typeddict(kind):
        return set(kind.__required_keys__)
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is missing and field.default_factory is missing
    }


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can stand for an annotation; True where that cannot be told."""
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    return any(_fits_one(value, option) for option in options(hint))


def _is_class(hint: Any, kind: type) -> bool:
    origin = typing.get_origin(hint) or hint
    return inspect.isclass(origin) and issubclass(origin, kind)


def _fits_one(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        ranges = [extra for extra in inner[1:] if isinstance(extra, Range)]
        return fits(value, inner[0]) and all(value in one for one in ranges)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    if hint in (int, float):
        numbers = int if hint is int else (int, float)
        number = isinstance(value, numbers) and not isinstance(value, bool)
        return number and _finite(value)
    if typing.is_typeddict(hint):
        return isinstance(value, Mapping)
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


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False


def literals(hint: Any) -> list[str]:
    return [
        str(value)
        for option in options(hint)
        if typing.get_origin(option) is Literal
        for value in typing.get_args(option)
    ]


def spell(hint: Any) -> str:
    """An annotation in words: "float in [0, 1] or null"."""
    names = []
    for option in options(hint):
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if origin is Literal:
            names += [repr(value) for value in inner]
        elif origin is Annotated:
            names.append(" ".join([spell(inner[0]), *map(str, inner[1:])]))
        elif option is NoneType:
            names.append("null")
        elif origin is not None:
            within = ", ".join("..." if one is Ellipsis else spell(one) for one in inner)
            names.append(f"{getattr(origin, '__name__', origin)}[{within}]")
        else:
            names.append(getattr(option, "__name__", str(option)))
    return " or ".join(names)
