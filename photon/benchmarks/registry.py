"""All readers by name."""

from __future__ import annotations

from typing import Any

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
from photon.errors import InputError, did_you_mean

READERS: dict[str, type[Reader]] = {
    reader.facts.name: reader
    for reader in (
        Rad3D, DeepTumorVQA, CtRate, AbdomenAtlas, PhaseOne, Slake, MedFrameQA, NextQA, M3DVqa,
        M3DCap, SwiftFiles,
    )
}  # fmt: skip


def find_reader(name: str) -> type[Reader]:
    """The reader of a benchmark; InputError for a name that none has."""
    if name not in READERS:
        raise InputError(f"dataset {name}: there is no such benchmark{did_you_mean(name, READERS)}")
    return READERS[name]


def build_reader(name: str, **settings: Any) -> Reader:
    """The reader of a benchmark with these settings; phase1 gets its published parts.

    Raises InputError naming an unknown benchmark or a wrong value.
    """
    reader = find_reader(name)
    if reader is PhaseOne:
        root = settings.get("root", Reader.root)
        settings |= {
            "parts": {"ct_rate": CtRate(root), "abdomenatlas": AbdomenAtlas(root)},
            "holdout": {"rad3d": Rad3D(root), "deeptumorvqa": DeepTumorVQA(root)},
        }
    return reader(**settings)
