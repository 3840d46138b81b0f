"""Protocols of the published benchmarks (docs/benchmarks.md); one module a benchmark."""

from photon.errors import InputError
from photon.evaluation.benchmarks.base import Benchmark
from photon.evaluation.benchmarks.deeptumorvqa import DeepTumorVQA
from photon.evaluation.benchmarks.deeptumorvqa_v2 import DeepTumorVQA2
from photon.evaluation.benchmarks.medframeqa import MedFrameQA
from photon.evaluation.benchmarks.nextqa import NextQA
from photon.evaluation.benchmarks.rad3d import Rad3D
from photon.evaluation.benchmarks.slake import Slake

BENCHMARKS: dict[str, type[Benchmark]] = {
    one.name: one for one in (Rad3D, DeepTumorVQA, DeepTumorVQA2, Slake, MedFrameQA, NextQA)
}


def find_benchmark(name: str) -> Benchmark:
    """The protocols of a benchmark by name. Raises InputError for an unknown one."""
    if name not in BENCHMARKS:
        legal = ", ".join(BENCHMARKS)
        raise InputError(f"evaluation.benchmark={name!r}: legal values are {legal}")
    return BENCHMARKS[name]()
