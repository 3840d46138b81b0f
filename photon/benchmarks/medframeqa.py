"""MedFrameQA: multi-image questions on frames of medical videos (arXiv 2505.16964)."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from photon.benchmarks.reader import (
    BadRow,
    Facts,
    Kind,
    Reader,
    Reading,
    choice_fields,
    inside,
    letter_of,
    need,
)
from photon.benchmarks.tables import TABLES, Row, embedded_images
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


@dataclass(frozen=True)
class MedFrameQA(Reader):
    """One published split, divided 9:1 as in the paper or by video.

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
