"""Any JSON or JSONL file in ms-swift's layout, read like a published benchmark."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from photon.benchmarks.benchmark import BadRow, Benchmark, Facts, Kind, Reading, inside
from photon.questions.record import read_records
from photon.volume.sources import names

_PLACE = re.compile(r"(.*?(?::\d+|\[\d+\])): (.*)", re.DOTALL)


@dataclass(frozen=True)
class SwiftFiles(Benchmark):
    """Files below the root, whose volume paths must stay there too (docs/questions.md).

    Args:
        train, val, test: questions of each split, or null.
        reports: volume-report pairs of Phase 1.
    """

    train: str | None = None
    val: str | None = None
    test: str | None = None
    reports: str | None = None

    facts: ClassVar[Facts] = Facts(
        name="swift",
        title="ms-swift files",
        licence="that of your files",
        source="github.com/modelscope/ms-swift (layout)",
        layout="files named by the reader's train, val, test and reports",
        counts={},
        splits=("train", "val", "test"),
        kinds=("questions", "reports"),
        ct=False,
    )

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        name = self.reports if kind == "reports" else getattr(self, split)
        if name is None or (kind == "reports" and split != "train"):
            return
        path = self.path(name)
        records, problems = read_records(path)
        reading.files.append(path)
        for text in problems:
            match = _PLACE.fullmatch(text)
            where, message = match.groups() if match else (str(path), text)
            reading.problem("row", where, message)
        for record in records:
            where = f"{path}: record {record.id}"
            try:
                files = [name for source in record.volumes for name in names(source)]
                for name in (*files, *filter(None, record.label_maps)):
                    inside(name)
            except BadRow as error:
                reading.problem(error.kind, where, str(error))
                continue
            reading.add(where, record)
