"""SLAKE: questions in English and Chinese about 2D radiology images (arXiv 2102.09542)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from photon.benchmarks.reader import BadRow, Facts, Kind, Reader, Reading, inside, need
from photon.benchmarks.tables import Row
from photon.questions.record import Record

_FILES = {"train": "train.json", "val": "validate.json", "test": "test.json"}
_COLUMNS = ("imgname", "question", "answer", "qlang", "modality", "answertype", "qid")


@dataclass(frozen=True)
class Slake(Reader):
    """Open and closed questions, all answered in free text; both prompts are the bare question.

    Args:
        files: folder of the three JSON files.
        volumes: folder of the images (imgs.zip, unpacked).
        modality: MRI gives the paper's 489 test questions; null takes all.
        languages: en, zh or both.
    """

    files: str = "SLAKE"
    volumes: str = "SLAKE/imgs"
    modality: Literal["MRI", "CT", "X-Ray"] | None = "MRI"
    languages: Sequence[Literal["en", "zh"]] = ("en", "zh")

    facts: ClassVar[Facts] = Facts(
        name="slake",
        title="SLAKE 1.0",
        licence="CC BY 4.0",
        source="BoKelvin/SLAKE; JSON files also in github.com/xiaoman-zhang/PMC-VQA",
        layout="SLAKE/{train,validate,test}.json, SLAKE/imgs/xmlabN/source.jpg",
        counts={"train": 9_835, "val": 2_099, "test": 2_094, "train MRI": 2_208, "test MRI": 489},
        splits=("train", "val", "test"),
        media="image",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", tuple(self.languages))

    def expected(self, split: str, kind: Kind = "questions") -> int | None:
        if sorted(self.languages) != ["en", "zh"]:
            return None
        key = f"{split} {self.modality}" if self.modality else split
        return self.facts.counts.get(key)

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        file = self.path(self.files, _FILES[split])
        if file.is_file():
            reading.table(file, _COLUMNS, partial(self._record, split))

    def _record(self, split: str, row: Row, line: int) -> Record | None:
        if self.modality not in (None, row["modality"]) or row["qlang"] not in self.languages:
            return None
        closed = need(row, "answertype", "answer_type").lower()
        if closed not in ("open", "closed"):
            raise BadRow("row", f"answer_type {row['answertype']!r} is neither OPEN nor CLOSED")
        image = inside(need(row, "imgname", "img_name"), "image")
        keys = {"qlang": "q_lang", "modality": "modality", "location": "location",
                "basetype": "base_type"}  # fmt: skip
        return Record(
            id=f"{split}/{need(row, 'qid')}",
            volume=f"{self.volumes}/{image}",
            question=need(row, "question"),
            answer=need(row, "answer"),
            patient=image.split("/")[0],
            task=closed,
            subtask=str(row.get("contenttype") or "other").lower(),
            extra={name: row[key] for key, name in keys.items() if row.get(key) is not None},
        )
