"""SLAKE: questions in English and Chinese about 2D radiology images (arXiv 2102.09542).

The paper: Table 9, the MRI questions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from photon.benchmarks.benchmark import (
    BadRow,
    Benchmark,
    Facts,
    Kind,
    PaperTable,
    Reading,
    inside,
    need,
)
from photon.benchmarks.judging import (
    UNREAD,
    Bert,
    Judged,
    Scored,
    answer_of,
    names_answer,
    text_of,
)
from photon.benchmarks.rows import Row
from photon.questions.record import Record

_FILES = {"train": "train.json", "val": "validate.json", "test": "test.json"}
# Both languages on one word; only whole answers are replaced, never a word inside one.
SYNONYMS = {
    "yes": "yes true correct \u662f \u662f\u7684 \u5bf9 \u6709 \u5b58\u5728 \u6b63\u786e "
    "\u5305\u542b \u53ef\u4ee5 \u6b63\u5e38".split(),
    "no": "no false incorrect \u5426 \u4e0d \u4e0d\u662f \u6ca1\u6709 \u65e0 "
    "\u4e0d\u5305\u542b \u4e0d\u53ef\u4ee5 \u4e0d\u6b63\u5e38".split(),
}
_YES, _NO = (frozenset(SYNONYMS[key]) for key in ("yes", "no"))
_WORD = {word: key for key, words in SYNONYMS.items() for word in words}


@dataclass(frozen=True)
class Slake(Benchmark):
    """Open and closed questions, all answered in free text; both prompts are the bare question.

    SLAKE has no script of its own; `official` is common practice: equality after lower-casing and
    removal of punctuation. `strict` also reads yes and no in either language, and lists ("Lung,
    Spinal Cord") in any order.

    Args:
        files: folder of the three JSON files.
        volumes: folder of the images (imgs.zip, unpacked).
        modality: MRI gives the paper's 489 test questions; null takes all.
        languages: en, zh or both; 401 of the 489 MRI test questions of both are about images that
            the other language has in training.
    """

    files: str = "SLAKE"
    volumes: str = "SLAKE/imgs"
    modality: Literal["MRI", "CT", "X-Ray"] | None = "MRI"
    languages: Sequence[Literal["en", "zh"]] = ("en",)

    facts: ClassVar[Facts] = Facts(
        name="slake",
        title="SLAKE 1.0",
        licence="CC BY 4.0",
        source="BoKelvin/SLAKE; JSON files also in github.com/xiaoman-zhang/PMC-VQA",
        layout="SLAKE/{train,validate,test}.json, SLAKE/imgs/xmlabN/source.jpg",
        counts={
            "train": 9_835,
            "val": 2_099,
            "test": 2_094,
            "train MRI": 2_208,
            "test MRI": 489,
            "test MRI en": 228,
            "test MRI zh": 261,
        },  # fmt: skip
        splits=("train", "val", "test"),
        media="image",
    )

    columns = ("imgname", "question", "answer", "qlang", "modality", "answertype", "qid")
    protocols = ("official", "lenient", "strict")
    tables = (PaperTable(9, "MedFrameQA and SLAKE after training"),)
    differences = (
        "official: equality after lower-casing and without punctuation (SLAKE publishes no "
        "script); strict: also yes and no in either language, and lists in any "
        "order; lenient: also an answer inside a sentence."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", tuple(self.languages))

    def expected(self, split: str, kind: Kind = "questions") -> int | None:
        both = sorted(self.languages) == ["en", "zh"]
        parts = (split, self.modality, None if both else self.languages[0])
        return self.facts.counts.get(" ".join(part for part in parts if part))

    def _files(self, split: str) -> list[Path]:
        return [self.path(self.files, _FILES[split])]

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        super()._read(reading, split, kind)
        if split == "test" and len(self.languages) > 1:
            self._note_shared(reading)

    def _note_shared(self, reading: Reading) -> None:
        """Say how many test questions are about images of training, in whatever language."""
        train, file = Reading(), self._files("train")[0]
        super()._read(train, "train", "questions")
        images = {record.volume for record in train.records}
        shared = sum(record.volume in images for record in reading.records)
        if shared:
            count = f"{shared} of {len(reading.records)} test questions"
            reading.note("overlap", str(file), f"{count} are about its images; take one language")

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

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        judged = [judge(row, protocol) for row in rows]
        scored.closed("SLAKE", judged, "Acc.")
        scored.tokens("SLAKE", rows)
        for key in ("task", "q_lang", "modality"):
            for value in sorted({str(r[key]) for r in rows if r.get(key)}):
                part = [j for j in judged if str(j.row.get(key)) == value]
                scored.closed(f"SLAKE {value}", part, "Acc.")
        return scored


def judge(row: Row, protocol: str) -> Judged:
    """Right or wrong of one answer."""
    read = plain if protocol == "official" else meaning
    gold, predicted = read(answer_of(row)), read(text_of(row))
    right = predicted == gold != ""
    right = right or protocol == "lenient" and names_answer(text_of(row), answer_of(row), _YES, _NO)
    if right:
        return Judged(row, 1.0, gold, gold)
    same = plain(text_of(row)) == plain(answer_of(row))
    return Judged(row, 0.0, gold, UNREAD if same or not predicted else predicted)


def plain(text: str) -> str:
    """Lower case, without punctuation in any script, white space collapsed."""
    text = unicodedata.normalize("NFKC", text).lower()
    kept = [c if unicodedata.category(c)[0] != "P" else " " for c in text]
    return " ".join("".join(kept).split())


def meaning(text: str) -> str:
    """`plain`, with yes and no in one spelling and the parts of a list in one order."""
    text = unicodedata.normalize("NFKC", text).replace("\u3001", ",").replace("\uff0c", ",")
    parts = sorted({plain(part) for part in text.split(",")} - {""})
    return ", ".join(_WORD.get(part, part) for part in parts)
