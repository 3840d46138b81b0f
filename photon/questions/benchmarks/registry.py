"""All readers by name, and a reader from KEY=VALUE words as the command line gives them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal

from photon.errors import InputError
from photon.questions.benchmarks.abdomenatlas import AbdomenAtlas
from photon.questions.benchmarks.base import Reader
from photon.questions.benchmarks.ct_rate import CtRate
from photon.questions.benchmarks.deeptumorvqa import DeepTumorVQA
from photon.questions.benchmarks.m3d import M3DCap, M3DVqa
from photon.questions.benchmarks.medframeqa import MedFrameQA
from photon.questions.benchmarks.nextqa import NextQA
from photon.questions.benchmarks.phase1 import PhaseOne
from photon.questions.benchmarks.rad3d import Rad3D
from photon.questions.benchmarks.slake import Slake
from photon.questions.benchmarks.swift_files import SwiftFiles

READERS: dict[str, type[Reader]] = {
    reader.facts.name: reader
    for reader in (
        Rad3D, DeepTumorVQA, CtRate, AbdomenAtlas, PhaseOne, Slake, MedFrameQA, NextQA, M3DVqa,
        M3DCap, SwiftFiles,
    )
}  # fmt: skip


def build_reader(words: Mapping[str, str]) -> Reader:
    """The reader of {"dataset": NAME, KEY: TEXT, ...}; phase1 gets its published parts.

    Raises InputError naming an unknown benchmark, key or value.
    """
    settings = dict(words)
    name = settings.pop("dataset", "")
    if name not in READERS:
        raise InputError(f"dataset={name}: there is no such benchmark; {', '.join(READERS)}")
    if name == "phase1":
        root = settings.pop("root", Reader.root)
        parts = {"ct_rate": CtRate(root), "abdomenatlas": AbdomenAtlas(root)}
        holdout = {"rad3d": Rad3D(root), "deeptumorvqa": DeepTumorVQA(root)}
        if settings:
            raise InputError(f"dataset=phase1 takes root only, not {', '.join(settings)}")
        return PhaseOne(root, parts=parts, holdout=holdout)
    hints = typing.get_type_hints(READERS[name])
    legal = [field.name for field in dataclasses.fields(READERS[name])]
    for key in settings:
        if key not in legal:
            raise InputError(f"{key}={settings[key]}: {name} has the keys {', '.join(legal)}")
    return READERS[name](**{k: _value(k, text, hints[k]) for k, text in settings.items()})


def _value(key: str, text: str, hint: Any) -> Any:
    """One word as the annotation wants it; "null" is None and commas separate a list."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else ()
    if type(None) in options:
        if text == "null":
            return None
        hint = next(option for option in options if option is not type(None))
    if typing.get_origin(hint) is Sequence:
        (inner,) = typing.get_args(hint)
        return tuple(_value(key, part.strip(), inner) for part in text.strip("[]").split(","))
    if typing.get_origin(hint) is Literal and text not in typing.get_args(hint):
        raise InputError(f"{key}={text}: legal values are {', '.join(typing.get_args(hint))}")
    if hint is int:
        try:
            return int(text)
        except ValueError:
            raise InputError(f"{key}={text}: is not a whole number") from None
    return text
