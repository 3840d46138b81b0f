"""NExT-QA: multi-choice questions about videos, eight types (arXiv 2105.08276).

The paper: Table 10.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from photon.benchmarks.benchmark import (
    BadRow,
    Benchmark,
    Facts,
    PaperTable,
    choice_fields,
    inside,
    need,
)
from photon.benchmarks.judging import Bert, Judged, Scored, by_value, strict_choice, text_of
from photon.benchmarks.rows import Row
from photon.errors import InputError
from photon.evaluation.scores import gold_letter
from photon.questions.record import Record

TYPES = {  # code -> task, title in Table 10
    "CH": ("causal", "Causal-How"),
    "CW": ("causal", "Causal-Why"),
    "DC": ("descriptive", "Desc.-Count"),
    "DL": ("descriptive", "Desc.-Loc"),
    "DO": ("descriptive", "Desc.-Other"),
    "TC": ("temporal", "Temp.-Now"),
    "TN": ("temporal", "Temp.-Next"),
    "TP": ("temporal", "Temp.-Present"),  # the paper's name; the benchmark's is "previous"
}
FOLDED = {"C": "Acc_C", "T": "Acc_T", "D": "Acc_D"}


@dataclass(frozen=True)
class NextQA(Benchmark):
    """Five options a question; the benchmark publishes no prompt, so both settings are alike.

    Accuracy over all questions, by type and by the benchmark's three groups. `official`
    (`eval_mc.py`): an answer is an option's index 0 to 4 or its letter and nothing else; "previous"
    (TP) counts among "next" (TN). `paper`: the same answers, with TP apart. `strict`: the one
    option that the answer names in any form, TP apart.

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

    columns = ("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4")
    protocols = ("official", "paper", "strict")
    tables = (PaperTable(10, "NExT-QA"),)
    differences = (
        'official and paper want the option\'s index or letter alone; official counts "previous" '
        'questions as "next"; strict reads the one option that the answer names in any form.'
    )

    def _files(self, split: str) -> list[Path]:
        return [self.path(self.files, f"{split}.csv")]

    @cached_property
    def _videos(self) -> dict[str, str]:
        path = self.path(self.files, "map_vid_vidorID.json")
        try:
            return {str(key): str(value) for key, value in json.loads(path.read_bytes()).items()}
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); fetch it with the CSVs") from error

    def _record(self, split: str, row: Row, line: int) -> Record:
        video, kind = need(row, "video"), need(row, "type").upper()
        if kind not in TYPES:
            raise BadRow("subtype", f"type {kind!r} is none of {', '.join(TYPES)}")
        if video not in self._videos:
            raise BadRow("missing_volume", f"video {video} is not in map_vid_vidorID.json")
        choices = {"ABCDE"[i]: need(row, f"a{i}", f"option a{i}") for i in range(5)}
        index = need(row, "answer")
        if index not in ("0", "1", "2", "3", "4"):
            raise BadRow("choice", f"answer {index!r} is not an index of the options, 0 to 4")
        suffix = ".mp4" if self.videos == "mp4" else ""
        return Record(
            id=f"{split}/{video}_{need(row, 'qid')}",
            volume=f"{self.volumes}/{inside(self._videos[video], 'video')}{suffix}",
            patient=video,
            task=TYPES[kind][0],
            subtask=kind,
            extra={"video": video, "qid": row["qid"].strip(), "answer_index": int(index)},
            **choice_fields(need(row, "question"), choices, "ABCDE"[int(index)]),
        )

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        judged = [judge(row, protocol) for row in rows]
        scored.closed("NExT-QA", judged, "Avg. Acc")
        groups = {title: (code,) for code, (_, title) in TYPES.items()}
        if protocol == "official":
            del groups[TYPES["TP"][1]]
            groups[TYPES["TN"][1]] = ("TN", "TP")
        groups |= {title: tuple(c for c in TYPES if c[0] == key) for key, title in FOLDED.items()}
        for title, codes in groups.items():
            scored.mean(("NExT-QA", title), [j for j in judged if type_of(j.row) in codes])
        scored.tokens("NExT-QA", rows)
        return scored

    def choice_text(self, row: Row, letter: str, protocol: str) -> str:
        return letter


def judge(row: Row, protocol: str) -> Judged:
    """Right or wrong of one answer; an index 0 to 4 is read under every protocol."""
    text = text_of(row).strip()
    letters = sorted(k.upper() for k in row.get("choices") or "ABCDE")
    if re.fullmatch(r"\d", text) and int(text) < len(letters):
        row = {**row, "prediction": letters[int(text)]}
    if protocol == "strict":
        return strict_choice(row)
    return by_value(row, text_of(row).strip().upper() == gold_letter(row))


def type_of(row: Row) -> str:
    """Two-letter code of a question, from `subtask`, `type` or the title of Table 10."""
    for name in (row.get("subtask"), row.get("type"), row.get("task")):
        code = next((c for c, (_, t) in TYPES.items() if str(name) in (c, t)), None)
        if code:
            return code
    return ""
