"""DeepTumorVQA v2: 42 subtypes, and an evaluator of its own that differs from v1's tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from photon.benchmarks.benchmark import Facts
from photon.benchmarks.deeptumorvqa import (
    PLACES,
    V2_FILES,
    DeepTumorVQA,
    answer_kind,
)
from photon.benchmarks.judging import (
    UNREAD,
    Bert,
    Judged,
    Scored,
    answer_of,
    by_value,
    is_choice,
    text_of,
)
from photon.benchmarks.rows import TABLES, Row
from photon.evaluation import metrics
from photon.evaluation.intervals import mean_of
from photon.evaluation.scores import gold_letter

TOLERANCES = (0.05, 0.10, 0.20, 0.50)
_NUMBER = re.compile(r"-?\d+\.?\d*")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class DeepTumorVQA2(DeepTumorVQA):
    """v2, with the settings of v1. `official` is its own evaluator, weighted by question.

    Choice: the first letter A to D, thoughts removed; yes and no are looked for in the text;
    numbers score max(0, 1 - relative error), which it calls MRA, beside tolerance bands; other
    answers by text without punctuation. `strict`: as in v1, with unweighted means and real MRA.
    """

    facts: ClassVar[Facts] = Facts(
        name="deeptumorvqa_v2",
        title="DeepTumorVQA 2.0",
        licence=DeepTumorVQA.facts.licence,
        source=DeepTumorVQA.facts.source,
        layout="DeepTumorVQA/{benchmark/test_qa.json,train/train_qa.csv,train/val_qa_pool.csv}; "
        "volumes AbdomenAtlas/image_only/BDMAP_*/",
        counts={"train": 428_050, "val": 47_933, "test": 10_000},
        splits=("train", "val", "test"),
    )
    tables = ()
    unread: ClassVar[str] = "no"
    version: ClassVar[int] = 2
    differences = (
        "official weighs every question alike and scores numbers by 1 - relative error; strict "
        "takes unweighted means over subtypes and MRA over thresholds."
    )

    def _files(self, split: str) -> Iterator[Path]:
        """The first file of a split in each place: test_qa is published as JSON and as JSONL."""
        for place in PLACES:
            found = sorted(self.path(self.files, place).glob(f"{V2_FILES[split]}.*"))
            yield from [path for path in found if path.suffix in TABLES][:1]

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = super().score(rows, protocol, bert)
        if protocol == "official":
            numbers = [r for r in rows if not is_choice(r) and answer_kind(r) == "number"]
            for band in TOLERANCES if numbers else ():
                hits = [float(_relative_error(r) <= band) for r in numbers]
                scored.measures["Numbers", f"Within {band:.0%}"] = mean_of(numbers, hits)
        return scored

    def judge(self, row: Row, protocol: str) -> Judged:
        if protocol != "official":
            return super().judge(row, protocol)
        text = _THOUGHT.sub("", text_of(row)).strip()
        if is_choice(row):
            return by_value(row, first_letter(text) == gold_letter(row))
        kind = answer_kind(row)
        if kind == "number":
            target = _number(answer_of(row))
            if target is None:
                return Judged(row, 0.0, skipped=True)
            number = _number(text)
            return Judged(row, metrics.mean_relative_accuracy(number, target, "continuous"))
        read = yes_or_no if kind == "binary" else _plain
        gold, answer = read(answer_of(row)), read(text)
        return Judged(row, float(answer == gold != ""), gold, answer or UNREAD)

    def yes_no(self, row: Row, protocol: str) -> tuple[bool | None, bool | None]:
        if protocol != "official" or is_choice(row):
            return super().yes_no(row, protocol)
        truth = yes_or_no(answer_of(row))
        answer = yes_or_no(_THOUGHT.sub("", text_of(row)))
        return (truth == "yes") if truth else None, (answer == "yes") if answer else None

    def _average(self, scored: Scored, group: str, judged: Sequence[Judged]) -> None:
        super()._average(scored, group, judged)
        scored.mean((group, "By question"), judged)


def first_letter(text: str) -> str:
    """v2's choice: the first character if it is A to D in any case, else the first lone letter."""
    text = text.strip().upper()
    if text[:1] in tuple("ABCD"):
        return text[0]
    found = re.search(r"\b([A-D])\b", text)
    return found.group(1) if found else ""


def yes_or_no(text: str) -> str:
    """v2's yes or no: how the text begins, else the word anywhere, yes first; "" if neither."""
    text = text.strip().lower()
    for word in ("yes", "no"):
        if text.startswith(word):
            return word
    return next((word for word in ("yes", "no") if re.search(rf"\b{word}\b", text)), "")


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s\-]", "", text.strip().lower()).split())


def _number(text: str) -> float | None:
    found = _NUMBER.search(text)
    return float(found.group()) if found else None


def _relative_error(row: Row) -> float:
    target, number = _number(answer_of(row)), _number(_THOUGHT.sub("", text_of(row)))
    if target is None or number is None:
        return float("inf")
    if target == 0:
        return 0.0 if number == 0 else float("inf")
    return abs(number - target) / abs(target)
