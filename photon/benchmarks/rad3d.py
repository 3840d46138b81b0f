"""3D-RAD: 92 CSV files of questions about CT-RATE's chest CTs (arXiv 2506.11147)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from photon.benchmarks import scans
from photon.benchmarks.reader import (
    BadRow,
    Facts,
    Kind,
    Reader,
    Reading,
    choice_fields,
    letter_of,
    need,
)
from photon.benchmarks.tables import Row, squash
from photon.questions.record import Record
from photon.volume.types import ScanHeader

# Folder -> (task as in the paper's Table 1, published subtask files of train and test).
_LETTERS = {"train": (*"cdefghijk", "n", "o", "q"), "test": tuple("bcdefgh")}
_FINDINGS = (
    "Arterial wall calcification", "Atelectasis", "Bronchiectasis", "Cardiomegaly",
    "Consolidation", "Coronary artery wall calcification", "Emphysema", "Hiatal hernia",
    "Interlobular septal thickening", "Lung nodule", "Lung opacity", "Lymphadenopathy",
    "Medical material", "Mosaic attenuation pattern", "Peribronchial thickening",
    "Pericardial effusion", "Pleural effusion", "Pulmonary fibrotic sequela",
)  # fmt: skip
_ABNORMALITY = ("Abnormality_feature", "Abnormality_position", "Abnormality_type", "Diagnosis")
FOLDERS: dict[str, tuple[str, dict[str, tuple[str, ...]] | tuple[str, ...]]] = {
    "Task1_Image_Observation": (
        "image_observation", ("Anatomical_observation", "Pathological_observation")),
    "Task2_Anomaly_Detection": ("anomaly_detection", _ABNORMALITY),
    "Task3_Medical_Computation": ("medical_measurement", ("Diameter", "Size", "Thickness")),
    "Task4_Existence_Detection": ("existence_detection", _FINDINGS),
    "Task5_Static_Temporal_Diagnosis": ("static_temporal_diagnosis", _LETTERS),
    "Task6_Longitudinal_Temporal_Diagnosis": ("longitudinal_temporal_diagnosis", _LETTERS),
}  # fmt: skip
COLUMNS = tuple(
    map(squash, "Task,Subtask,VolumeName,Question,Answer,QuestionType,AnswerChoice".split(","))
) + tuple(f"choice{letter}" for letter in "abcd")
_KEPT = [(name, squash(name)) for name in ("Task", "Subtask", "QuestionType", "VolumeName")]


@dataclass(frozen=True)
class Rad3D(Reader):
    """Open and closed questions of six tasks.

    Args:
        files: folder of the repository, with or without its 3DRAD/ below.
        volumes: folder of CT-RATE; test_N_x_y of the questions is its valid_N_x_y.
        scans: fixed: CT-RATE's corrected files; original: those with blank headers, read with the
            metadata CSV; flat: files directly in `volumes`, named as in the questions.
        orientation: of the originals' axes, ITK letters.
    """

    files: str = "3D-RAD"
    volumes: str = "CT-RATE"
    scans: scans.Scans = "fixed"
    orientation: str | None = None

    facts: ClassVar[Facts] = Facts(
        name="rad3d",
        title="3D-RAD",
        licence="MIT (code), Apache-2.0 (questions); CT-RATE below them is CC BY-NC-SA 4.0",
        source="github.com/Tang-xiaoxiao/3D-RAD",
        layout="3D-RAD/3DRAD/{train,test}/TaskN_*/SUBTASK.csv beside "
        "CT-RATE/dataset/{train,valid}_fixed/",
        counts={"train questions": 136_195, "test questions": 33_910},
    )

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        top = self.path(self.files, "3DRAD", split)
        top = top if top.is_dir() else self.path(self.files, split)
        if not top.is_dir():
            return
        for folder, (task, subtasks) in FOLDERS.items():
            names = subtasks[split] if isinstance(subtasks, dict) else subtasks
            present = {path.stem: path for path in (top / folder).glob("*.csv")}
            for name in sorted(set(names) - set(present)):
                reading.note("file", str(top / folder / f"{name}.csv"), "is absent; fetch it")
            for name in sorted(present):
                make = partial(self._record, f"{split}/{folder}/{name}", folder, task, name)
                reading.table(present[name], COLUMNS, make)

    def _record(
        self, prefix: str, folder: str, task: str, subtask: str, row: Row, line: int
    ) -> Record:
        if row["task"].strip() != folder[4]:
            raise BadRow("row", f"task {row['task']!r} stands in {folder}; put it where it belongs")
        name = need(row, "volumename", "VolumeName")
        volume = scans.ct_rate_path(name, self.volumes, self.scans)
        question, answer = need(row, "question"), need(row, "answer")
        kind = need(row, "questiontype", "QuestionType").lower()
        if kind in ("close", "closed"):
            fields = self._closed(question, answer, row)
        elif kind == "open":
            fields = {"question": question, "answer": answer}
        else:
            raise BadRow("row", f"QuestionType {row['questiontype']!r} is neither Open nor Close")
        return Record(
            id=f"{prefix}:{line}",
            volume=volume,
            patient=scans.ct_rate_patient(name) or name,
            task=task,
            subtask=subtask,
            extra={name: row[key] for name, key in _KEPT},
            **fields,
        )

    def _closed(self, question: str, answer: str, row: Row) -> dict[str, object]:
        cells = {letter: row[f"choice{letter.lower()}"].strip() for letter in "ABCD"}
        choices = {letter: text for letter, text in cells.items() if text not in ("", "-")}
        if len(choices) < 2:
            raise BadRow("choice", "a closed question has fewer than two options; write them")
        letter = letter_of(row["answerchoice"], choices)
        if choices[letter] != answer:
            raise BadRow("choice", f"answer {answer!r} is not the text of option {letter}")
        fields = choice_fields(question, choices, letter)
        if self.prompt == "official":  # its code prints all four columns, "-" included
            options = " ".join(f"{key}. {text or '-'}" for key, text in cells.items())
            fields["question"] = f"{question}\nChoices: {options}\nAnswer:"
            fields["answer"] = f"{letter}. {answer}"
        return fields

    def header(self, volume: str) -> ScanHeader | None:
        if self.scans != "original":
            return None
        return scans.ct_rate_header(Path(self.root), self.volumes, volume, self.orientation)
