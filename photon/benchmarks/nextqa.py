"""NExT-QA: multi-choice questions about videos, eight types (arXiv 2105.08276)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from photon.benchmarks.reader import (
    BadRow,
    Facts,
    Kind,
    Reader,
    Reading,
    choice_fields,
    inside,
    need,
)
from photon.benchmarks.tables import Row
from photon.errors import InputError
from photon.questions.record import Record

TYPES = {
    "CW": "causal", "CH": "causal",
    "TN": "temporal", "TC": "temporal", "TP": "temporal",
    "DC": "descriptive", "DL": "descriptive", "DO": "descriptive",
}  # fmt: skip
_COLUMNS = ("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")


@dataclass(frozen=True)
class NextQA(Reader):
    """Five options a question; the benchmark publishes no prompt, so both settings are alike.

    Args:
        files: folder of the CSV files and of map_vid_vidorID.json.
        volumes: folder of VidOR's videos.
        videos: mp4 reads VOLUMES/DIR/ID.mp4, which needs PyAV; frames reads the pictures in the
            folder VOLUMES/DIR/ID, taken as preparation.images.fps a second.
    """

    files: str = "NExT-QA"
    volumes: str = "VidOR"
    videos: Literal["mp4", "frames"] = "mp4"

    facts: ClassVar[Facts] = Facts(
        name="nextqa",
        title="NExT-QA",
        licence="MIT (questions); videos of VidOR",
        source="github.com/doc-doc/NExT-QA",
        layout="NExT-QA/{train,val,test}.csv, NExT-QA/map_vid_vidorID.json, VidOR/DIR/ID.mp4",
        counts={"val questions": 4_996, "test questions": 8_564},
        splits=("train", "val", "test"),
        media="video",
    )

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        file = self.path(self.files, f"{split}.csv")
        if file.is_file():
            reading.table(file, _COLUMNS, partial(self._record, split, self._videos()))

    def _videos(self) -> dict[str, str]:
        path = self.path(self.files, "map_vid_vidorID.json")
        try:
            return {str(key): str(value) for key, value in json.loads(path.read_bytes()).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); fetch it with the CSVs") from error

    def _record(self, split: str, videos: dict[str, str], row: Row, line: int) -> Record:
        video, kind = need(row, "video"), need(row, "type").upper()
        if kind not in TYPES:
            raise BadRow("subtype", f"type {kind!r} is none of {', '.join(TYPES)}")
        if video not in videos:
            raise BadRow("missing_volume", f"video {video} is not in map_vid_vidorID.json")
        choices = {"ABCDE"[i]: need(row, f"a{i}", f"option a{i}") for i in range(5)}
        index = need(row, "answer")
        if index not in ("0", "1", "2", "3", "4"):
            raise BadRow("choice", f"answer {index!r} is not an index of the options, 0 to 4")
        suffix = ".mp4" if self.videos == "mp4" else ""
        return Record(
            id=f"{split}/{video}_{need(row, 'qid')}",
            volume=f"{self.volumes}/{inside(videos[video], 'video')}{suffix}",
            patient=video,
            task=TYPES[kind],
            subtask=kind,
            extra={"video": video, "qid": row["qid"].strip(), "answer_index": int(index)},
            **choice_fields(need(row, "question"), choices, "ABCDE"[int(index)]),
        )
