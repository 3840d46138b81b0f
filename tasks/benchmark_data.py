"""A published benchmark as a data module: its records come from a reader, not from JSONL files."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from photon.annotations import Count, Seed, Whole
from photon.benchmarks.benchmark import BadRow, Benchmark, Reading
from photon.benchmarks.using import cases_of, describe
from photon.errors import InputError
from photon.evaluation.provenance import file_hash
from photon.questions.fill_store import Case, is_prepared, prepare_cases
from photon.questions.record import Record
from photon.volume.sources import Source, locate
from tasks.datamodule import Kind, QuestionData, Sampling
from tasks.progress import say


class BenchmarkData(QuestionData):
    """Records of `reader` (docs/benchmarks.md); bad rows are counted, named and left out.

    Args:
        reader: which benchmark, with its folders and its prompt.
        store, seed, volumes_per_batch, questions_per_volume, sampling, workers: see `QuestionData`.
        check_hu: refuse to prepare a scan whose values cannot be HU.
    """

    def __init__(
        self,
        reader: Benchmark,
        store: str | Path = "outputs/data/store",
        seed: Seed = 7,
        volumes_per_batch: Count = 1,
        questions_per_volume: Count = 16,
        sampling: Sampling = "volumes",
        workers: Whole = 0,
        check_hu: bool = True,
    ):
        sizes = (volumes_per_batch, questions_per_volume, sampling, workers)
        super().__init__(reader.root, store, seed, *sizes)
        self.reader = reader
        self.check_hu = check_hu
        self._readings: dict[tuple[str, Kind], Reading] = {}
        self._prepared: set[tuple[str, Kind]] = set()

    def reading(self, split: str, kind: Kind = "questions") -> Reading:
        """What the reader gives for a split, read once. Raises InputError when no row is good."""
        if (split, kind) not in self._readings:
            reading = self.reader.read(split, kind)
            name = f"{self.reader.facts.name} {split} {kind}"
            if not reading.records:
                first = reading.problems[0] if reading.problems else "its files hold no row"
                raise InputError(f"{name}: no usable row ({first})")
            say(name, describe(reading))
            self._readings[split, kind] = reading
        return self._readings[split, kind]

    def records(self, split: str, kind: Kind = "questions") -> list[Record]:
        return self.reading(split, kind).records

    def data_hash(self, split: str) -> str:
        """SHA-256 of the split's files and of what turns them into records."""
        files = {str(path): file_hash(path) for path in self.reading(split).files}
        text = json.dumps([self.reader.settings(), sorted(files.values())], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def prepare_volumes(self, split: str, kind: Kind = "questions") -> list[Record]:
        reading = self.reading(split, kind)
        if (split, kind) not in self._prepared:
            self._prepared.add((split, kind))
            self.reader.unpack()
            before = len(reading.problems)
            reading.require(self.root)
            self.require_kinds(reading.records)
            cases = cases_of(self.reader, reading)
            if len(reading.problems) > before:
                first, count = reading.problems[before], len(reading.problems) - before
                say(self.reader.facts.name, f"{count} more rows left out (first: {first})")
            if not all(is_prepared(self.store, case) for case in cases):
                preparation = self.model.preparation
                prepare_cases(cases, self.store_root, preparation, check_hu=self.check_hu)
        return self.readable(reading.records)

    def _ready(self, records: list[Record]) -> list[Record]:
        """The records whose volumes are in the store, read with their declared header."""
        store, root = self.store, self.root

        @cache
        def ready(volume: Source, labels: str | None) -> bool:
            maps = str(root / labels) if labels else None
            try:
                header = self.reader.header(volume)
            except BadRow:  # counted where the volumes were prepared
                return False
            return is_prepared(store, Case(locate(root, volume), maps, header))

        return [r for r in records if all(map(ready, r.volumes, r.label_maps))]
