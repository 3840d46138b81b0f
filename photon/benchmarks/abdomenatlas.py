"""AbdomenAtlas 3.0 Mini: abdominal CTs with generated reports, for Phase 1 (RadGPT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from photon.benchmarks import scans
from photon.benchmarks.benchmark import Benchmark, Facts, Kind, Reading, need
from photon.benchmarks.rows import Row, squash
from photon.questions.record import Record
from photon.questions.templates import REPORT_REQUESTS

Report = Literal["structured", "narrative", "fusion structured", "fusion narrative"]


@dataclass(frozen=True)
class AbdomenAtlas(Benchmark):
    """Volume-report pairs.

    Args:
        files: folder of AbdomenAtlas3.0MiniWithMeta.csv and TrainTestIDS/.
        volumes: folder under which the BDMAP_... folders lie, at most two levels down.
        ids: the published division, by case (IID) or by institution (OOD).
        report: column of the CSV; the paper does not say which it used.
    """

    files: str = "AbdomenAtlas"
    volumes: str = "AbdomenAtlas/image_only"
    ids: Literal["IID", "OOD"] = "IID"
    report: Report = "narrative"

    facts: ClassVar[Facts] = Facts(
        name="abdomenatlas",
        title="AbdomenAtlas 3.0 Mini",
        licence="CC BY-NC-ND 4.0 (repository), CC BY-NC-SA 4.0 (data, as reported)",
        source="github.com/MrGiovanni/RadGPT",
        layout="AbdomenAtlas/{AbdomenAtlas3.0MiniWithMeta.csv,TrainTestIDS/IID_train.csv,"
        "image_only/BDMAP_*/ct.nii.gz}",
        counts={"train reports": 8_334, "test reports": 928},
        kinds=("reports", "questions"),
    )

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        file = self.path(self.files, "AbdomenAtlas3.0MiniWithMeta.csv")
        if not file.is_file():  # before the id file is asked for
            return
        wanted = scans.id_file(self.path(self.files, "TrainTestIDS", f"{self.ids}_{split}.csv"))
        paths = scans.atlas_paths(Path(self.root), self.volumes)
        column = squash(f"{self.report} report")
        make = partial(self._record, wanted, paths, column)
        reading.table(file, ("bdmapid", column), make)

    def _record(
        self, wanted: set[str], paths: Mapping[str, str], column: str, row: Row, line: int
    ) -> Record | None:
        case = scans.case_id(need(row, "bdmapid", "BDMAP ID"))
        if case not in wanted:
            return None
        return Record(
            id=f"report/{case}",
            volume=paths.get(case, f"{self.volumes}/{case}/ct.nii.gz"),
            question=REPORT_REQUESTS[line % len(REPORT_REQUESTS)],
            answer=need(row, column, f"the {self.report} report"),
            patient=case,
            task="report",
        )

    def expected(self, split: str, kind: Kind = "questions") -> int | None:
        return self.facts.counts.get(f"{split} reports") if self.ids == "IID" else None
