"""Phase 1's reports of several data sets, without the patients that Phase 2 is tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from photon.benchmarks.abdomenatlas import AbdomenAtlas
from photon.benchmarks.benchmark import AbsentFiles, Benchmark, Facts, Kind, Reading
from photon.benchmarks.ct_rate import CtRate
from photon.benchmarks.deeptumorvqa import DeepTumorVQA
from photon.benchmarks.rad3d import Rad3D
from photon.errors import InputError
from photon.volume.types import ScanHeader


@dataclass(frozen=True)
class PhaseOne(Benchmark):
    """Volume-report pairs of its parts; the paper adds 27,577 pairs of its own, not published.

    Args:
        parts: benchmarks with reports, by name; null takes CT-RATE and AbdomenAtlas.
        holdout: those whose test patients are kept out of training (the paper's leak guard); null
            takes 3D-RAD and DeepTumorVQA.
    """

    parts: Mapping[str, Benchmark] | None = None
    holdout: Mapping[str, Benchmark] | None = None

    facts: ClassVar[Facts] = Facts(
        name="phase1",
        title="Phase 1 of the paper",
        licence="those of its parts",
        source="its parts",
        layout="those of its parts",
        counts={},
        kinds=("reports", "questions"),
    )

    def __post_init__(self) -> None:
        for key, published in (
            ("parts", (CtRate, AbdomenAtlas)),
            ("holdout", (Rad3D, DeepTumorVQA)),
        ):
            if getattr(self, key) is None:
                object.__setattr__(self, key, {one.facts.name: one(self.root) for one in published})
        for name, reader in {**self.parts, **self.holdout}.items():
            if reader.root != self.root:
                raise InputError(f"root of {name} is {reader.root}, not {self.root}; use one root")

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        held = self.held_out() if split == "train" else {}
        for name, part in self.parts.items():
            one = _complete(part, split, "reports")
            reading.files += one.files
            reading.problems += one.problems
            reading.notes += one.notes
            for record in one.records:
                where = one.places[record.id]
                if record.patient in held:
                    source = held[record.patient]
                    message = f"patient {record.patient} is tested in {source}; left out"
                    reading.note("leak_guard", where, message)
                else:
                    reading.add(where, replace(record, id=f"{name}/{record.id}", subtask=name))

    def held_out(self) -> dict[str, str]:
        """Patient -> the benchmark that tests on them."""
        held: dict[str, str] = {}
        for name, reader in self.holdout.items():
            records = _complete(reader, "test", "questions").records
            held.update({record.patient: name for record in records if record.patient})
        return held

    def expected(self, split: str, kind: Kind = "questions") -> int | None:
        counts = [part.expected(split, "reports") for part in self.parts.values()]
        return None if None in counts or self.holdout else sum(counts)

    def header(self, volume: str) -> ScanHeader | None:
        for part in self.parts.values():
            if volume.startswith(f"{getattr(part, 'volumes', '')}/"):
                return part.header(volume)
        return None

    def settings(self) -> dict[str, Any]:
        """Plain values; part of a data hash."""
        return {
            "benchmark": self.facts.name,
            "parts": {name: part.settings() for name, part in self.parts.items()},
            "holdout": {name: reader.settings() for name, reader in self.holdout.items()},
        }


def _complete(part: Benchmark, split: str, kind: Kind) -> Reading:
    """A part's reading; that it is absent is a mistake, and no reason to go on without it."""
    try:
        return part.read(split, kind)
    except AbsentFiles as error:
        raise InputError(f"phase1 needs all of its parts and of its holdout: {error}") from error
