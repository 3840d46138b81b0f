"""DeepTumorVQA v1: 29 subtypes of questions about abdominal tumours, as the paper used it.

The paper: Tables 2, 5 and 6.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from photon.benchmarks import scans
from photon.benchmarks.benchmark import (
    BadRow,
    Benchmark,
    Facts,
    Kind,
    PaperTable,
    Reading,
    choice_fields,
    letter_of,
    need,
)
from photon.benchmarks.judging import (
    UNREAD,
    Bert,
    Judged,
    Scored,
    answer_of,
    by_value,
    is_choice,
    names_answer,
    option_texts,
    strict_choice,
    text_of,
)
from photon.benchmarks.rows import TABLES, Row, squash
from photon.evaluation import metrics
from photon.evaluation.intervals import mean_of, measure_of
from photon.evaluation.scores import gold_letter
from photon.questions.record import Record


@dataclass(frozen=True)
class Subtype:
    """A row of deeptumorvqa_subtypes.csv. answer: number, binary or phrase, by v2's own lists."""

    name: str
    task: str
    answer: Literal["number", "binary", "phrase"]
    since: int  # the version that it came with


with (Path(__file__).parent / "deeptumorvqa_subtypes.csv").open(encoding="utf-8") as _file:
    _ROWS = [Subtype(*line[:3], int(line[3])) for line in list(csv.reader(_file))[1:]]
SUBTYPES = {squash(subtype.name): subtype for subtype in _ROWS}
_OPTION = re.compile(r"(?:^|\s)\(?([A-Z])[:.)]\s+")
# The wording that v2 publishes (its prompt.py); v1 published none.
_SYSTEM = (
    "You are a radiology AI assistant. You read abdominal CT scans and answer clinical questions "
    "using the visual evidence and any patient context provided. Be concise and follow the "
    "answer-format instructions exactly."
)
_MODALITY = "You are given the full 3D abdominal CT volume (NIfTI, native voxel spacing)."
_PATIENT = ("sex", "age", "scanner", "contrast")
_CLOSING = {
    "choice": "Answer with ONLY the single letter (A, B, C, or D).",
    "number": "Answer with a single number (no units, no extra words).",
    "binary": "Answer with 'yes' or 'no'.",
    "phrase": "Answer with the most appropriate short phrase.",
}
V2_FILES = {"train": "train_qa", "val": "val_qa_pool", "test": "test_qa"}
PLACES = (".", "data", "benchmark", "train")  # folders named by the authors
TITLES = {
    "measurement": "Meas.",
    "recognition": "Recog.",
    "visualreasoning": "Vis. Rsn.",
    "medicalreasoning": "Med. Rsn.",
}
CLINICAL = "kidney tumor existence"  # Table 5
YES = frozenset(
    "yes true present positive exist exists 1 \u6709 \u662f \u5b58\u5728 \u9633\u6027".split()
)
NO = frozenset(
    "no false absent negative 0 \u65e0 \u5426 \u4e0d\u5b58\u5728 \u9634\u6027 \u672a\u89c1".split()
) | {"not exist"}
_EDGE = " .,:;!?\uff0c\u3002\uff1a\uff1b\uff01\uff1f"
_FIRST_NUMBER = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class DeepTumorVQA(Benchmark):
    """Multi-choice or free-text questions; numeric answers carry their value.

    Unweighted means over subtypes, within each type and in all (Table 2's Total Average).
    `official`: the paper's scripts (v1's repository has none): equality of strings, character by
    character, and MRA with `<` for numbers. `strict`: the option that the answer names, normalised
    text, thousands separators read. Numbers with an unreadable answer score 0 under both.

    Args:
        form: choice: with its options; free: the question alone.
        files: folder of the questions.
        volumes: folder under which the BDMAP_... folders of AbdomenAtlas lie.
        ids: published: the benchmark's own division; IID or OOD: AbdomenAtlas's, from `id_files`.
        id_files: folder of {IID,OOD}_{train,test}.csv.
    """

    form: Literal["choice", "free"] = "choice"
    files: str = "DeepTumorVQA"
    volumes: str = "AbdomenAtlas/image_only"
    ids: Literal["published", "IID", "OOD"] = "published"
    id_files: str = "AbdomenAtlas/TrainTestIDS"

    facts: ClassVar[Facts] = Facts(
        name="deeptumorvqa",
        title="DeepTumorVQA 1.0",
        licence="CC BY 4.0 (questions); CT by its source",
        source="github.com/Schuture/DeepTumorVQA",
        layout="DeepTumorVQA/{train,validation}*.{csv,jsonl,parquet}; volumes "
        "AbdomenAtlas/image_only/BDMAP_*/",
        counts={"train": 355_962, "test": 39_650},
    )
    protocols = ("official", "lenient", "strict")
    tables = (
        PaperTable(2, "DeepTumorVQA", models_in_rows=False),
        PaperTable(5, "Kidney tumor recognition", models_in_rows=False),
        PaperTable(6, "DeepTumorVQA, other institutions"),
    )
    differences = (
        "official wants the supervised answer to the character, and skips a yes or no that it "
        "cannot read in Table 5; strict reads letters, option texts and normalised text, reads "
        '"1,234" as 1234, and counts an unreadable yes or no as wrong. MRA is the paper\'s in all; '
        "lenient is strict, and reads an answer inside a sentence."
    )
    unread: ClassVar[str] = "left out"  # official: an answer that is neither yes nor no
    version: ClassVar[int] = 1  # 2 replaced it under the same address

    def filled(self) -> tuple[PaperTable, ...]:
        return tuple(t for t in self.tables if (t.number == 6) == (self.ids == "OOD"))

    def expected(self, split: str, kind: Kind = "questions") -> int | None:
        return self.facts.counts.get(split) if self.ids == "published" else None

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        paths = scans.atlas_paths(Path(self.root), self.volumes)
        wanted, pools = None, (split,)
        if self.ids != "published":
            wanted = scans.id_file(self.path(self.id_files, f"{self.ids}_{split}.csv"))
            pools = self.facts.splits
        for pool in pools:
            for file in self._files(pool):
                make = partial(self._record, pool, wanted, paths)
                reading.table(file, ("imageid", "question", "answer", "questionsubtype"), make)

    def _files(self, split: str) -> Iterator[Path]:
        """Files of a split; those of version 2, whose names begin alike, are not of version 1."""
        pattern = {"train": "train*.*", "test": "validation*.*"}[split]
        for place in PLACES:
            for path in sorted(self.path(self.files, place).glob(pattern)):
                if path.suffix in TABLES and path.stem not in V2_FILES.values():
                    yield path

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
        if known is None or known.since > self.version:
            raise BadRow("subtype", f"question_subtype {name!r} is not one of {self.facts.title}")
        numeric = known.answer == "number"
        number = row.get("questionid", row.get("qid"))
        fields = self._choice(row) if self.form == "choice" else self._free(row, numeric)
        if self.prompt == "official":
            fields |= self._official(row, known.answer)
        keys = ("organ", "spacing", "shape", "sex", "age", "scanner", "contrast")
        extra = {key: row[key] for key in keys if row.get(key) not in (None, "")}
        organ = extra.pop("organ", None)
        return Record(
            id=f"{pool}/{number if number not in (None, '') else line}",
            volume=paths.get(case, f"{self.volumes}/{case}/ct.nii.gz"),
            patient=case,
            task=known.task,
            subtask=known.name,
            organ=organ,
            extra=extra,
            **fields,
        )

    def _choice(self, row: Row) -> dict[str, Any]:
        text = row.get("multiplechoicequestion") or row.get("mcquestion")
        if not text:
            raise BadRow("choice", "has no multiple_choice_question; use form=free for this row")
        question, choices = split_options(str(text))
        letter = letter_of(need(row, "correctoption", "correct_option"), choices)
        return choice_fields(question, choices, letter)

    def _free(self, row: Row, numeric: bool) -> dict[str, Any]:
        question, answer = need(row, "question"), need(row, "answer")
        value = metrics.parse_number(answer) if numeric else None
        if numeric and value is None:
            raise BadRow("row", f"the answer {answer!r} of a numeric question holds no number")
        return {"question": question, "answer": answer, "value": value}

    def _official(self, row: Row, answer: str) -> dict[str, Any]:
        """System prompt and question in v2's wording, by subtype; they do not know the answer."""
        told = [f"{key}={row[key]}" for key in _PATIENT if row.get(key)]
        parts = [_MODALITY, *([f"Patient: {', '.join(told)}."] if told else [])]
        if answer == "number" and row.get("spacing"):
            shape = row.get("shape")
            parts.append(f"Voxel spacing (mm): {row['spacing']}.  Volume shape: {shape}.")
        if self.form == "choice":
            answer, asked = "choice", row.get("multiplechoicequestion") or row["mcquestion"]
        else:
            asked = need(row, "question")
        return {"system": _SYSTEM, "question": "\n".join([*parts, str(asked), _CLOSING[answer]])}

    def variants(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        parts = {"Multi-choice": [], "Free-text": []}
        for row in rows:
            parts["Multi-choice" if is_choice(row) else "Free-text"].append(row)
        return {name: part for name, part in parts.items() if part}

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        self._subtypes(scored, [self.judge(row, protocol) for row in rows])
        clinical = [row for row in rows if squash(subtype_of(row)) == squash(CLINICAL)]
        if clinical:
            read = [self.yes_no(row, protocol) for row in clinical]
            add_clinical(
                scored,
                "Kidney tumor",
                clinical,
                read,
                self.unread if protocol == "official" else "wrong",
            )
        scored.tokens("Tokens", rows)
        return scored

    def judge(self, row: Row, protocol: str) -> Judged:
        """One question: choice, number or text."""
        strict = protocol != "official"
        if is_choice(row):
            return strict_choice(row) if strict else by_value(row, text_of(row) == answer_of(row))
        if answer_kind(row) == "number":
            return Judged(row, _mra(row, strict))
        gold = metrics.normalize_text(answer_of(row))
        plain = metrics.normalize_text(text_of(row))
        right = plain == gold != "" if strict else text_of(row) == answer_of(row)
        right = right or protocol == "lenient" and names_answer(text_of(row), answer_of(row))
        said = gold if right else UNREAD if plain == gold else plain
        return Judged(row, float(right), gold, said)

    def yes_no(self, row: Row, protocol: str) -> tuple[bool | None, bool | None]:
        """(truth, answer) of an existence question; None where it cannot be read."""
        if is_choice(row):
            texts = option_texts(row)
            parsed = metrics.parse_letter(text_of(row), row.get("choices"))
            return _bool(texts.get(gold_letter(row), "")), _bool(texts.get(parsed or "", ""))
        return _bool(answer_of(row)), _bool(text_of(row))

    def _subtypes(self, scored: Scored, judged: Sequence[Judged]) -> None:
        types: dict[str, list[Judged]] = {}
        for j in judged:
            types.setdefault(type_of(j.row), []).append(j)
        for name in dict.fromkeys((*TITLES.values(), *sorted(types))):
            if members := types.get(name):
                for subtype in sorted({subtype_of(j.row) for j in members}):
                    part = [j for j in members if subtype_of(j.row) == subtype]
                    self._subtype(scored, name, subtype, part)
                self._average(scored, name, members)
        self._average(scored, "Total", judged)

    def _subtype(self, scored: Scored, group: str, subtype: str, judged: Sequence[Judged]) -> None:
        star = "*" if answer_kind(judged[0].row) == "number" else ""
        scored.mean((group, subtype + star), judged)
        if all(j.gold is not None for j in judged):
            part = Scored()
            part.closed(subtype, judged)
            if balanced := part.measures.get((subtype, "Balanced accuracy")):
                scored.measures[f"{group} {subtype}", "Balanced accuracy"] = balanced
                scored.confusion |= part.confusion

    def _average(self, scored: Scored, group: str, judged: Sequence[Judged]) -> None:
        """Each subtype counts once; values that the protocol skips count as they are (0)."""
        rows = [j.row for j in judged]
        names = [f"{type_of(row)}/{subtype_of(row)}" for row in rows]
        values = [j.value for j in judged]
        scored.measures[group, "Average"] = mean_of(rows, values, names)


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


def add_clinical(
    scored: Scored,
    group: str,
    rows: Sequence[Row],
    read: Sequence[tuple[bool | None, bool | None]],
    unread: str,
) -> None:
    """Sensitivity, specificity and accuracy of yes-or-no questions (Table 5).

    read: (truth, answer) of each. An answer that cannot be read is "wrong", "left out" with a note
    of how many, or "no": then it is no positive, and yet not accurate.
    """
    used = [
        (row, truth, answer)
        for row, (truth, answer) in zip(rows, read, strict=True)
        if truth is not None and (unread != "left out" or answer is not None)
    ]
    if len(used) < len(rows):
        scored.notes.append(f"{group}: {len(rows) - len(used)} of {len(rows)} answers left out")
    truth = np.array([t for _, t, _ in used], dtype=float)
    right = np.array([t == a for _, t, a in used], dtype=float)
    quiet = np.array([a is None and unread == "no" for _, _, a in used], dtype=float)
    counted = {
        "Sensitivity": (right, truth),
        "Specificity": (right + quiet, 1 - truth),
        "Accuracy": (right, np.ones_like(truth)),
    }
    for name, (values, weight) in counted.items():
        stats = np.stack([values * weight, weight], axis=-1)
        scored.measures[group, name] = measure_of([row for row, _, _ in used], stats)


def _mra(row: Row, strict: bool) -> float:
    """The paper's MRA; its number is the first in the text, signs read wherever they stand."""
    if strict:
        number = metrics.parse_number(text_of(row))
        value = row.get("value")
        target = metrics.parse_number(answer_of(row)) if value is None else value
    else:
        number, target = first_number(text_of(row)), first_number(answer_of(row))
    if number is None or target is None:
        return 0.0
    return metrics.mean_relative_accuracy(number, float(target), "strict")


def first_number(text: str) -> float | None:
    """The paper's reading: "12-14" is 12, "T-12" is -12, "1,234" is 1, "2e3" is 2000."""
    found = _FIRST_NUMBER.search(text)
    return float(found.group()) if found else None


def _bool(text: str) -> bool | None:
    text = text.strip().lower().strip(_EDGE)
    return True if text in YES else False if text in NO else None


def type_of(row: Row) -> str:
    """Table 2's short name of a question's type."""
    return TITLES.get(squash(str(row.get("task"))), str(row.get("task")))


def subtype_of(row: Row) -> str:
    """A question's subtype with spaces between its words."""
    return " ".join(str(row.get("subtask")).replace("_", " ").split())


def answer_kind(row: Row) -> str:
    """number, binary or phrase, by a question's subtype."""
    known = SUBTYPES.get(squash(subtype_of(row)))
    return known.answer if known else "phrase"
