"""MedFrameQA: multi-image questions on frames of medical videos (arXiv 2505.16964).

The paper: Tables 7 and 9.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from photon.benchmarks.benchmark import (
    BadRow,
    Benchmark,
    Facts,
    Kind,
    PaperTable,
    Reading,
    choice_fields,
    inside,
    letter_of,
    need,
)
from photon.benchmarks.judging import Bert, Judged, Scored, by_value, strict_choice, text_of
from photon.benchmarks.rows import TABLES, Row, embedded_images, squash
from photon.evaluation.scores import gold_letter
from photon.files import write_bytes
from photon.questions.record import LETTERS, Record

_COLUMNS = ("questionid", "modality", "videoid", "question", "options", "correctanswer")
_PLACES = (".", "data")
# Of the benchmark's evaluation code: what its prompt asks for; the sentence before it is ours.
_OFFICIAL = (
    "Answer the question about the images. The last line of your response must be of the form "
    "'Answer: $LETTER' (without quotes), where LETTER is one of the options."
)
_SHARE = 0.1
MODALITIES = {
    "ct": "CT",
    "mri": "MRI",
    "xray": "X-ray",
    "ultrasound": "Ultrasound",
    "other": "Other",
}
_MARKERS = ("Answer:", "Answer*", "Final Answer", "final answer")
_MARKS = ",.!?;:'"


@dataclass(frozen=True)
class MedFrameQA(Benchmark):
    """One published split, divided 9:1 as in the paper or by video.

    `official`: the parser of the benchmark's `eval_process.py`; a question without any answer is
    left out, as there. `strict`: the one option that the answer names, letters up to the last
    option, and an absent answer is wrong.

    Args:
        files: folder of the Parquet or JSON files.
        volumes: folder of the frames; `unpack` writes those inside the Parquet files there.
        division: video: no video lies in both parts; random: rows at random, as the paper's
            (its seed is not published); all: everything is "test".
        seed: of the division.
    """

    files: str = "MedFrameQA"
    volumes: str = "MedFrameQA"
    division: Literal["video", "random", "all"] = "video"
    seed: int = 0

    facts: ClassVar[Facts] = Facts(
        name="medframeqa",
        title="MedFrameQA",
        licence="CC BY 4.0",
        source="github.com/haojinw0027/MedFrameQA",
        layout="MedFrameQA/[data/]test*.{parquet,jsonl,json}",
        counts={"all test": 2_851, "random test": 286, "random train": 2_565},
        media="frames",
    )

    protocols = ("official", "strict")
    tables = (
        PaperTable(7, "MedFrameQA, zero-shot"),
        PaperTable(9, "MedFrameQA and SLAKE after training"),
    )
    differences = (
        "official: the benchmark's parser, which takes the first capital that is an option's "
        'letter after "Answer:" (the B of "Both"), and leaves empty answers out; strict: the one '
        "option that the answer names, and empty answers are wrong."
    )

    def expected(self, split: str, kind: Kind = "questions") -> int | None:
        return self.facts.counts.get(f"{self.division} {split}")

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        whole = Reading()
        for file in self._tables():
            whole.table(file, _COLUMNS, self._record)
        test = self._test(whole.records)
        reading.files, reading.problems, reading.notes = whole.files, whole.problems, whole.notes
        for record in whole.records:
            if (record.id in test) == (split == "test"):
                reading.records.append(record)
                reading.places[record.id] = whole.places[record.id]

    def _tables(self) -> list[Path]:
        found = [p for place in _PLACES for p in sorted(self.path(self.files, place).glob("test*"))]
        return [path for path in found if path.suffix in TABLES]

    def unpack(self) -> None:
        for file in [path for path in self._tables() if path.suffix == ".parquet"]:
            whole = Reading()
            whole.table(file, _COLUMNS, self._record)
            wanted = {frame for record in whole.records for frame in record.volumes}
            absent = {frame for frame in wanted if not self.path(frame).exists()}
            if not absent:
                continue  # without reading the images
            for row, images in embedded_images(file):
                try:
                    frames = self._frames(row)
                except BadRow:
                    continue  # said when it is read
                for frame, data in zip(frames, images, strict=False):
                    if frame in absent:
                        write_bytes(self.path(frame), data)

    def _frames(self, row: Row) -> list[str]:
        """Paths of a row's frames; BadRow where one leads out of the root."""
        frames = row.get("imageurl") or row.get("imagepath") or []
        frames = [frames] if isinstance(frames, str) else frames
        return [f"{self.volumes}/{inside(self._name(name), 'frame')}" for name in frames]

    def _test(self, records: Sequence[Record]) -> set[str]:
        """Ids of the test part; it does not depend on the order of the rows."""
        if self.division == "all":
            return {record.id for record in records}
        wanted = math.ceil(_SHARE * len(records))
        by_id = sorted(records, key=lambda record: record.id)
        if self.division == "random":
            random.Random(self.seed).shuffle(by_id)
            return {record.id for record in by_id[:wanted]}
        videos = sorted({record.patient for record in records}, key=self._draw)
        chosen: set[str] = set()
        while len(chosen) < wanted:
            video = videos.pop()
            chosen |= {record.id for record in records if record.patient == video}
        return chosen

    def _draw(self, video: str | None) -> bytes:
        return hashlib.sha256(f"{self.seed}/{video}".encode()).digest()

    def _record(self, row: Row, line: int) -> Record:
        options = row["options"]
        if isinstance(options, str):
            try:
                options = json.loads(options)
            except json.JSONDecodeError:
                raise BadRow("choice", "options is not a JSON list; write one") from None
        if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
            raise BadRow("choice", "options is not a list of two options or more; write it")
        choices = dict(zip(LETTERS, (str(option).strip() for option in options), strict=False))
        if not all(choices.values()):
            raise BadRow("choice", "an option is empty; write its text")
        letter = letter_of(need(row, "correctanswer", "correct_answer"), choices)
        frames = self._frames(row)
        if not frames:
            raise BadRow("empty", "names no frame; fetch the published file")
        video = need(row, "videoid", "video_id")
        keys = {"organ": "organ", "keyword": "keyword", "videoid": "video_id"}
        record = Record(
            id=need(row, "questionid", "question_id"),
            volume=frames[0],
            more_volumes=tuple(frames[1:]),
            patient=video,
            task=str(row.get("system") or "all"),
            subtask=need(row, "modality"),
            extra={name: row[key] for key, name in keys.items() if row.get(key)},
            **choice_fields(need(row, "question"), choices, letter),
        )
        if self.prompt == "official":
            record = replace(record, system=_OFFICIAL, answer=f"Answer: {letter}")
        return record

    @staticmethod
    def _name(name: object) -> str:
        """The path within the data set of a frame given as an address."""
        text = str(name)
        return text.split("://", 1)[1].split("/", 1)[-1] if "://" in text else text

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        judged = [judge(row, protocol) for row in rows]
        scored.closed("MedFrameQA", judged, "Overall")
        for title in MODALITIES.values():
            part = [j for j in judged if modality_of(j.row) == title]
            scored.mean(("MedFrameQA", title), part)
        scored.tokens("MedFrameQA", rows)
        return scored

    def choice_text(self, row: Row, letter: str, protocol: str) -> str:
        return f"Answer: {letter}"


def judge(row: Row, protocol: str) -> Judged:
    """Right or wrong of one answer."""
    if protocol == "strict":
        return strict_choice(row)
    if not text_of(row):
        return Judged(row, 0.0, skipped=True)
    if "cot_reasoning" in row:  # its result.json, in which the answer is a letter already
        return by_value(row, text_of(row).strip() == gold_letter(row))
    choices = {k.upper(): v for k, v in (row.get("choices") or {}).items()}
    return by_value(row, official_letter(text_of(row), choices) == gold_letter(row))


def official_letter(text: str, choices: Mapping[str, str]) -> str:
    """The letter that the benchmark's parser finds; "" for none.

    In order: boxed{X}; the first option letter after the last marker ("Answer:", "Final Answer");
    "(X)"; "X."; in answers of more than five words the text of an option. Of several the last, and
    of two that begin at one place the first option.
    """
    for letter in re.findall(r"boxed\{([A-Z])\}", text):
        if letter in choices:
            return letter
    marker = next((m for m in _MARKERS if m in text), None)
    if marker is not None:
        tail = text[text.rfind(marker) + len(marker) :].strip()
        places = [(tail.find(letter), letter) for letter in choices if letter in tail]
        if places:
            return min(places)[1]
    for mark in _MARKS:
        text = text.strip(mark)
    text = f" {text} "
    for form in ("({})", "{}."):
        places = [(text.rfind(form.format(x)), x) for x in choices if form.format(x) in text]
        if places:
            return max(places, key=lambda place: place[0])[1]
    if len(text.split()) > 5:
        lower = text.lower()
        # Option texts end at their first ". ", as the benchmark cuts "A. text" there.
        options = {x: v.split(". ")[0].lower() for x, v in choices.items()}
        places = [(lower.rfind(v), x) for x, v in options.items() if v in lower]
        if places:
            return max(places, key=lambda place: place[0])[1]
    return ""


def modality_of(row: Row) -> str:
    """The column of Table 7; what is none of its four modalities is Other."""
    name = squash(str(row.get("modality") or row.get("subtask")))
    return next((title for key, title in MODALITIES.items() if key in name), "Other")
