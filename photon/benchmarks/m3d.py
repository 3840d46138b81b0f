"""M3D-VQA and M3D-Cap: questions and captions of 3D CTs from Radiopaedia (arXiv 2404.00578)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from photon.benchmarks.benchmark import (
    BadRow,
    Benchmark,
    Facts,
    Kind,
    Reading,
    choice_fields,
    inside,
    letter_of,
    need,
)
from photon.benchmarks.rows import Row
from photon.evaluation.metrics import normalize_text
from photon.questions.record import Record
from photon.questions.templates import REPORT_REQUESTS
from photon.volume.types import ScanHeader

_KINDS = {"1": "plane", "2": "phase", "3": "organ", "4": "abnormality", "5": "location"}
# Arrays (1, D, H, W), min-max normalised to 0..1: spread over the range of HU that is prepared.
_SLOPE, _INTERCEPT = 2000.0, -1000.0
_COLUMNS = ("imagepath", "questiontype", "question", "answer", "answerchoice") + tuple(
    f"choice{letter}" for letter in "abcd"
)


@dataclass(frozen=True)
class M3D(Benchmark):
    """Five types of questions, with options or in free text; captions serve as reports.

    Args:
        files: folder of M3D_VQA_{train,val,test}.csv.
        captions: file of M3D-Cap.
        volumes: folder that the paths in both are relative to.
        form: of the questions: choice or free.
        orientation: ITK letters that say where the arrays' axes (W, H, D) come from; the files do
            not, and the usual display of axial slices is assumed.
    """

    files: str = "M3D-VQA"
    captions: str = "M3D/M3D_Cap_npy/M3D_Cap.json"
    volumes: str = "M3D"
    form: Literal["choice", "free"] = "choice"
    orientation: str = "RAI"

    facts: ClassVar[Facts] = Facts(
        name="m3d",
        title="M3D",
        licence="MIT (code); data of Radiopaedia, non-commercial",
        source="github.com/BAAI-DCAI/M3D",
        layout="M3D-VQA/M3D_VQA_{train,val,test}.csv, M3D/M3D_Cap_npy/{M3D_Cap.json,...}",
        counts={},
        splits=("train", "val", "test"),
        kinds=("questions", "reports"),
        media="array",
        ct=False,
    )

    def header(self, volume: str) -> ScanHeader:
        return ScanHeader(_SLOPE, _INTERCEPT, None, self.orientation)

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        if kind == "questions":
            file = self.path(self.files, f"M3D_VQA_{split}.csv")
            reading.table(file, _COLUMNS, partial(self._question, split))
        else:
            name = "validation" if split == "val" else split
            make = partial(self._caption, split)
            reading.table(self.path(self.captions), ("image", "text"), make, under=name)

    def _question(self, split: str, row: Row, line: int) -> Record:
        image = inside(need(row, "imagepath", "Image Path"), "image")
        kind = need(row, "questiontype", "Question Type").removesuffix(".0")
        if kind not in _KINDS:
            raise BadRow("subtype", f"Question Type {kind!r} is none of {', '.join(_KINDS)}")
        question, answer = need(row, "question"), need(row, "answer")
        fields: dict[str, Any] = {"question": question, "answer": answer}
        if self.form == "choice":
            choices = {c: need(row, f"choice{c.lower()}", f"Choice {c}") for c in "ABCD"}
            letter = letter_of(need(row, "answerchoice", "Answer Choice"), choices)
            if normalize_text(choices[letter]) != normalize_text(answer):
                raise BadRow("choice", f"answer {answer!r} is not the text of option {letter}")
            fields = choice_fields(question, choices, letter)
            if self.prompt == "official":
                options = " ".join(f"{key}. {text}" for key, text in choices.items())
                fields["question"] = f"{question} Choices: {options}"
                fields["answer"] = f"{letter}. {choices[letter]}"
        return Record(
            id=f"{split}/{line}",
            volume=f"{self.volumes}/{image}",
            patient=image.rsplit("/", 1)[0],
            task="m3d",
            subtask=_KINDS[kind],
            **fields,
        )

    def _caption(self, split: str, row: Row, line: int) -> Record:
        image = inside(need(row, "image"), "image")
        text = need(row, "text")
        if text.endswith(".txt"):
            path = self.path(self.volumes, inside(text, "caption"))
            try:
                text = path.read_text(encoding="utf-8-sig").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise BadRow("file", f"caption {path} cannot be read ({error})") from error
            if not text:
                raise BadRow("empty", f"caption {path} is empty; the row is left out")
        return Record(
            id=f"{split}/{image}",
            volume=f"{self.volumes}/{image}",
            question=REPORT_REQUESTS[line % len(REPORT_REQUESTS)],
            answer=text,
            patient=image.rsplit("/", 1)[0],
            task="report",
        )
