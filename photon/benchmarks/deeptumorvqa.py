"""DeepTumorVQA v1 (29 subtypes, the paper's) and v2 (42): questions about abdominal tumours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

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
from photon.benchmarks.tables import TABLES, Row, squash
from photon.questions.record import Record

# Type -> subtypes; numeric ones end in *. The second part of each is v2's.
_TYPES: dict[str, tuple[str, str]] = {
    "measurement": (
        "lesion volume measurement*, organ HU measurement*, organ volume measurement*",
        "organ HU ratio*, tumor burden percentage*"),
    "recognition": (
        "colon lesion existence, kidney cyst existence, kidney lesion existence, "
        "kidney tumor existence, liver lesion existence, pancreatic lesion existence",
        "PDAC existence, PNET existence, splenomegaly detection"),
    "visual_reasoning": (
        "adjacent organ, inter-segment comparison, kidney volume comparison, "
        "largest lesion attenuation, largest lesion diameter*, largest lesion location, "
        "largest lesion slice*, lesion count by location*, lesion counting*, lesion outlier, "
        "liver lesion clustering, organ aggregation*, organ enlargement, "
        "tumor organ HU difference*",
        "bilateral kidney asymmetry, multi-organ lesion burden comparison"),
    "medical_reasoning": (
        "fatty liver, lesion type classification, pancreatic cyst resectability, "
        "pancreatic lesion resectability, pancreatic steatosis, pancreatic tumor staging",
        "PDAC vs PNET classification, hepatic steatosis grading, portal hypertension assessment, "
        "pseudocyst determination, renal mass characterization, splenomegaly grading"),
}  # fmt: skip
SUBTYPES: dict[str, tuple[str, str, bool, bool]] = {  # squashed -> name, task, numeric, in v1
    squash(name.strip("*")): (name.strip("*"), task, name.endswith("*"), first)
    for task, parts in _TYPES.items()
    for names, first in zip(parts, (True, False), strict=True)
    for name in names.split(", ")
}
_OPTION = re.compile(r"(?:^|\s)\(?([A-Z])[:.)]\s+")
_YES_NO = {"yes", "no"}
_SUFFIX = {  # v2's own
    "choice": "Answer with ONLY the single letter (A, B, C, or D).",
    "number": "Answer with a single number (no units, no extra words).",
    "binary": "Answer with 'yes' or 'no'.",
}
# Split -> file names without suffix, searched in `files` and the folders named by the authors.
_FILES = {
    ("v1", "train"): "train*",
    ("v1", "test"): "validation*",
    ("v2", "train"): "train_qa",
    ("v2", "val"): "val_qa_pool",
    ("v2", "test"): "test_qa",
}
_PLACES = (".", "data", "benchmark", "train")


@dataclass(frozen=True)
class DeepTumorVQA(Reader):
    """Multi-choice or free-text questions; numeric answers carry their value.

    Args:
        version: v1 is what the paper used; v2 replaced it under the same address.
        form: choice: with its options; free: the question alone.
        files: folder of the questions.
        volumes: folder under which the BDMAP_... folders of AbdomenAtlas lie.
        ids: published: the benchmark's own division; IID or OOD: AbdomenAtlas's, from `id_files`.
        id_files: folder of {IID,OOD}_{train,test}.csv.
    """

    version: Literal["v1", "v2"] = "v1"
    form: Literal["choice", "free"] = "choice"
    files: str = "DeepTumorVQA"
    volumes: str = "AbdomenAtlas/image_only"
    ids: Literal["published", "IID", "OOD"] = "published"
    id_files: str = "AbdomenAtlas/TrainTestIDS"

    facts: ClassVar[Facts] = Facts(
        name="deeptumorvqa",
        title="DeepTumorVQA",
        licence="CC BY 4.0 (questions); CT by its source",
        source="github.com/Schuture/DeepTumorVQA",
        layout="v1: DeepTumorVQA/{train,validation}*.{csv,jsonl,parquet}; v2: DeepTumorVQA/"
        "benchmark/test_qa.json, train/train_qa.csv; volumes AbdomenAtlas/image_only/BDMAP_*/",
        counts={"v1 train": 355_962, "v1 test": 39_650, "v2 train": 428_050, "v2 val": 47_933},
        splits=("train", "val", "test"),
    )

    def expected(self, split: str, kind: Kind = "questions") -> int | None:
        published = self.ids == "published"
        return self.facts.counts.get(f"{self.version} {split}") if published else None

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        paths = scans.atlas_paths(Path(self.root), self.volumes)
        wanted, pools = None, (split,)
        if self.ids != "published":
            wanted = scans.id_file(self.path(self.id_files, f"{self.ids}_{split}.csv"))
            pools = ("train", "val", "test")
        for pool in pools:
            for file in self._files(pool):
                make = partial(self._record, pool, wanted, paths)
                reading.table(file, ("imageid", "question", "answer", "questionsubtype"), make)

    def _files(self, split: str) -> Iterator[Path]:
        pattern = _FILES.get((self.version, split))
        for place in _PLACES if pattern else ():
            found = sorted(self.path(self.files, place).glob(f"{pattern}.*"))
            tables = [path for path in found if path.suffix in TABLES]
            if self.version == "v2":  # test_qa is published as JSON and as JSONL
                tables = tables[:1]
            yield from tables

    def _record(
        self,
        pool: str,
        wanted: set[str] | None,
        paths: Mapping[str, str],
        row: Row,
        line: int,
    ) -> Record | None:
        case = scans.case_id(need(row, "imageid", "image_id"))
        if wanted is not None and case not in wanted:
            return None
        name = need(row, "questionsubtype", "question_subtype")
        known = SUBTYPES.get(squash(name))
        if known is None or (self.version == "v1" and not known[3]):
            raise BadRow("subtype", f"question_subtype {name!r} is not one of {self.version}'s")
        subtask, task, numeric, _ = known
        number = row.get("questionid", row.get("qid"))
        fields = self._choice(row) if self.form == "choice" else self._free(row, numeric)
        if fields is None:
            return None
        keys = ("organ", "spacing", "shape", "sex", "age", "scanner", "contrast")
        extra = {key: row[key] for key in keys if row.get(key) not in (None, "")}
        organ = extra.pop("organ", None)
        return Record(
            id=f"{pool}/{number if number not in (None, '') else line}",
            volume=paths.get(case, f"{self.volumes}/{case}/ct.nii.gz"),
            patient=case,
            task=task,
            subtask=subtask,
            organ=organ,
            extra=extra,
            **fields,
        )

    def _choice(self, row: Row) -> dict[str, Any] | None:
        text = row.get("multiplechoicequestion") or row.get("mcquestion")
        if not text:
            raise BadRow("choice", "has no multiple_choice_question; use form=free for this row")
        question, choices = split_options(str(text))
        letter = letter_of(need(row, "correctoption", "correct_option"), choices)
        fields = choice_fields(question, choices, letter)
        if self.prompt == "official":
            fields["question"] = f"{text}\n{_SUFFIX['choice']}"
        return fields

    def _free(self, row: Row, numeric: bool) -> dict[str, Any]:
        question, answer = need(row, "question"), need(row, "answer")
        value = number_of(answer) if numeric else None
        if self.prompt == "official":
            kind = "number" if numeric else "binary" if answer.lower() in _YES_NO else None
            given = [f"{key}: {row[key]}" for key in ("spacing", "shape") if row.get(key)]
            # v2 gives spacing and shape with numeric questions; the wording of that is ours.
            parts = [question, *(given if numeric else ()), *([_SUFFIX[kind]] if kind else ())]
            question = "\n".join(parts)
        return {"question": question, "answer": answer, "value": value}


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """("Which is larger?", {"A": "left", ...}) of "Which is larger? A: left B: right"."""
    marks: list[re.Match] = []
    for match in _OPTION.finditer(text):
        if match.group(1) == chr(ord("A") + len(marks)):  # the next letter, not one within a text
            marks.append(match)
    ends = [*(match.start() for match in marks[1:]), len(text)][: len(marks)]
    choices = {m.group(1): text[m.end() : e].strip() for m, e in zip(marks, ends, strict=True)}
    if len(choices) < 2 or not all(choices.values()):
        raise BadRow("choice", f"no options in ...{text[-50:]!r}; write them as A: this B: that")
    return text[: marks[0].start()].strip(), choices


def number_of(answer: str) -> float:
    """The number of a numeric answer; BadRow where there is none."""
    match = re.search(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", answer)
    value = float(match.group()) if match else math.nan
    if not math.isfinite(value):
        raise BadRow("row", f"the answer {answer!r} of a numeric question holds no number")
    return value
