"""CT-RATE: chest CTs with reports (Phase 1) and labels of 18 findings (arXiv 2403.17834)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from photon.benchmarks import scans
from photon.benchmarks.benchmark import (
    BadRow,
    Facts,
    Kind,
    Reading,
    choice_fields,
    need,
)
from photon.benchmarks.rows import Row, squash
from photon.questions.record import Record
from photon.questions.templates import REPORT_REQUESTS

_SECTIONS = {"Findings": "findingsen", "Impression": "impressionsen"}
_EMPTY = ("", "not given", "none", "nan")


@dataclass(frozen=True)
class CtRate(scans.OnCtRate):
    """Reports, or yes/no questions about the labelled findings; "test" is CT-RATE's validation.

    Reports, labels and metadata lie in the folder of the volumes too.
    """

    facts: ClassVar[Facts] = Facts(
        name="ct_rate",
        title="CT-RATE",
        licence="CC BY-NC-SA 4.0, gated",
        source="CT-RATE of the authors of CT-CLIP (github.com/ibrahimethemhamamci/CT-CLIP)",
        layout="CT-RATE/dataset/{radiology_text_reports,multi_abnormality_labels,metadata,"
        "train_fixed,valid_fixed}/",
        counts={
            "train reports": 47_149,
            "test reports": 3_039,
            "train questions": 47_149 * 18,
            "test questions": 3_039 * 18,
        },
        kinds=("questions", "reports"),
    )

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        dataset = self.path(self.volumes, "dataset")
        if kind == "reports":
            name = "train" if split == "train" else "validation"
            file = dataset / "radiology_text_reports" / f"{name}_reports.csv"
            columns = ("volumename", *_SECTIONS.values())
            reading.table(file, columns, partial(self._report, split))
        else:
            name = "train" if split == "train" else "valid"
            file = dataset / "multi_abnormality_labels" / f"{name}_predicted_labels.csv"
            columns = ("volumename", *map(squash, scans.FINDINGS))
            reading.table(file, columns, partial(self._labels, split))

    def _report(self, split: str, row: Row, line: int) -> Record:
        name = need(row, "volumename", "VolumeName")
        parts = {title: row[key].strip() for title, key in _SECTIONS.items()}
        parts = {t: text for t, text in parts.items() if text.rstrip(".").lower() not in _EMPTY}
        if not parts:
            raise BadRow("empty", "the report has neither findings nor an impression; left out")
        return Record(
            id=f"{split}/report/{name}",
            volume=scans.ct_rate_path(name, self.volumes, self.scans),
            question=REPORT_REQUESTS[line % len(REPORT_REQUESTS)],
            answer="\n".join(f"{title}: {text}" for title, text in parts.items()),
            patient=scans.ct_rate_patient(name),
            task="report",
        )

    def _labels(self, split: str, row: Row, line: int) -> list[Record]:
        name = need(row, "volumename", "VolumeName")
        volume = scans.ct_rate_path(name, self.volumes, self.scans)
        patient = scans.ct_rate_patient(name)
        records = []
        for finding in scans.FINDINGS:
            value = need(row, squash(finding), finding)
            if value not in ("0", "1", "0.0", "1.0"):
                raise BadRow("row", f"label {value!r} of {finding} is neither 0 nor 1; correct it")
            letter = "A" if value.startswith("1") else "B"
            question = f"Does the CT scan demonstrate {finding.lower()}?"
            fields = choice_fields(question, {"A": "Yes", "B": "No"}, letter)
            records.append(
                Record(
                    id=f"{split}/{finding}/{name}",
                    volume=volume,
                    patient=patient,
                    task="existence_detection",
                    subtask=finding,
                    **fields,
                )
            )
        return records
