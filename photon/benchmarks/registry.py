"""All readers by name, and a reader from KEY=VALUE words as the command line gives them."""

from __future__ import annotations

from collections.abc import Mapping

from photon.benchmarks.abdomenatlas import AbdomenAtlas
from photon.benchmarks.ct_rate import CtRate
from photon.benchmarks.deeptumorvqa import DeepTumorVQA
from photon.benchmarks.m3d import M3DCap, M3DVqa
from photon.benchmarks.medframeqa import MedFrameQA
from photon.benchmarks.nextqa import NextQA
from photon.benchmarks.phase1 import PhaseOne
from photon.benchmarks.rad3d import Rad3D
from photon.benchmarks.reader import Reader
from photon.benchmarks.slake import Slake
from photon.benchmarks.swift_files import SwiftFiles
from photon.errors import InputError
from photon.words import bind

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
    return bind(READERS[name], settings, name)
