"""Protocols of the published benchmarks (docs/benchmarks.md); one module a benchmark."""

from photon.benchmarks.deeptumorvqa_protocol import DeepTumorVQA
from photon.benchmarks.deeptumorvqa_v2 import DeepTumorVQA2
from photon.benchmarks.medframeqa_protocol import MedFrameQA
from photon.benchmarks.nextqa_protocol import NextQA
from photon.benchmarks.protocol import Benchmark
from photon.benchmarks.rad3d_protocol import Rad3D
from photon.benchmarks.slake_protocol import Slake
from photon.errors import InputError

BENCHMARKS: dict[str, type[Benchmark]] = {
    one.name: one for one in (Rad3D, DeepTumorVQA, DeepTumorVQA2, Slake, MedFrameQA, NextQA)
}


def find_benchmark(name: str) -> Benchmark:
    """The protocols of a benchmark by name. Raises InputError for an unknown one."""
    if name not in BENCHMARKS:
        legal = ", ".join(BENCHMARKS)
        raise InputError(f"evaluation.benchmark={name!r}: legal values are {legal}")
    return BENCHMARKS[name]()
