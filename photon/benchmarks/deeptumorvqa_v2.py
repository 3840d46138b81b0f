"""DeepTumorVQA v2: 42 subtypes, and an evaluator of its own that differs from v1's tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from photon.benchmarks.deeptumorvqa_protocol import NUMERIC_KEYS, DeepTumorVQA, subtype_of
from photon.benchmarks.protocol import (
    UNREAD,
    Bert,
    Judged,
    Row,
    Scored,
    answer_of,
    by_value,
    is_choice,
    text_of,
)
from photon.benchmarks.tables import squash
from photon.evaluation import metrics
from photon.evaluation.measures import mean_of
from photon.evaluation.protocols import gold_letter

TOLERANCES = (0.05, 0.10, 0.20, 0.50)
_BINARY = {
    squash(name)
    for name in (
        "pancreatic lesion existence", "liver lesion existence", "kidney lesion existence",
        "kidney tumor existence", "kidney cyst existence", "colon lesion existence",
        "PDAC existence", "PNET existence", "lesion outlier", "organ enlargement",
        "pancreatic steatosis", "pancreatic cyst resectability", "pseudocyst determination",
        "splenomegaly detection", "portal hypertension assessment",
    )
}  # fmt: skip
_NUMBER = re.compile(r"-?\d+\.?\d*")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


class DeepTumorVQA2(DeepTumorVQA):
    """v2: `official` is its own evaluator, weighted by question.

    Choice: the first letter A to D, thoughts removed; yes and no are looked for in the text;
    numbers score max(0, 1 - relative error), which it calls MRA, beside tolerance bands; other
    answers by text without punctuation. `strict`: as in v1, with unweighted means and real MRA.
    """

    name = "deeptumorvqa_v2"
    tables = ()
    differences = (
        "official weighs every question alike and scores numbers by 1 - relative error; strict "
        "takes unweighted means over subtypes and MRA over thresholds."
    )

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = super().score(rows, protocol, bert)
        if protocol == "official":
            numbers = [
                r for r in rows if not is_choice(r) and squash(subtype_of(r)) in NUMERIC_KEYS
            ]
            ids = [str(r["id"]) for r in numbers]
            for band in TOLERANCES if numbers else ():
                hits = [float(_relative_error(r) <= band) for r in numbers]
                scored.measures["Numbers", f"Within {band:.0%}"] = mean_of(
                    ids, ["Numbers"] * len(ids), hits
                )
        return scored

    def judge(self, row: Row, protocol: str) -> Judged:
        if protocol == "strict":
            return super().judge(row, protocol)
        text = _THOUGHT.sub("", text_of(row)).strip()
        if is_choice(row):
            return by_value(row, first_letter(text) == gold_letter(row))
        subtype = squash(subtype_of(row))
        if subtype in NUMERIC_KEYS:
            target = _number(answer_of(row))
            if target is None:
                return Judged(0.0, skipped=True)
            number = _number(text)
            return Judged(metrics.mean_relative_accuracy(number, target, "continuous"))
        read = yes_or_no if subtype in _BINARY else _plain
        gold, answer = read(answer_of(row)), read(text)
        return Judged(float(answer == gold != ""), gold, answer or UNREAD)

    def yes_no(self, row: Row, protocol: str) -> tuple[bool | None, bool | None]:
        if protocol == "strict" or is_choice(row):
            return super().yes_no(row, protocol)
        truth = yes_or_no(answer_of(row))
        answer = yes_or_no(_THOUGHT.sub("", text_of(row)))
        return (truth == "yes") if truth else None, answer == "yes"  # unreadable counts as no

    def _average(
        self, scored: Scored, group: str, rows: Sequence[Row], judged: Sequence[Judged]
    ) -> None:
        super()._average(scored, group, rows, judged)
        used = [(str(r["id"]), j) for r, j in zip(rows, judged, strict=True) if not j.skipped]
        scored.measures[group, "By question"] = mean_of(
            [key for key, _ in used], ["all"] * len(used), [j.value for _, j in used]
        )


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
