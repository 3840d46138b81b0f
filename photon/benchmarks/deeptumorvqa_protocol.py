"""DeepTumorVQA v1: 29 subtypes, multiple choice and free text (Tables 2, 5 and 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from photon.benchmarks.deeptumorvqa import SUBTYPES
from photon.benchmarks.protocol import (
    UNREAD,
    Benchmark,
    Bert,
    Judged,
    Row,
    Scored,
    answer_of,
    by_value,
    is_choice,
    option_texts,
    same_name,
    strict_choice,
    text_of,
)
from photon.benchmarks.tables import squash
from photon.evaluation import metrics
from photon.evaluation.measures import Measure, mean_of
from photon.evaluation.protocols import gold_letter

TYPES = {
    "measurement": "Meas.",
    "recognition": "Recog.",
    "visualreasoning": "Vis. Rsn.",
    "medicalreasoning": "Med. Rsn.",
}
NUMERIC_KEYS = {key for key, (_, _, numeric, _) in SUBTYPES.items() if numeric}
CLINICAL = "kidney tumor existence"  # Table 5
YES = frozenset(
    "yes true present positive exist exists 1 \u6709 \u662f \u5b58\u5728 \u9633\u6027".split()
)
NO = frozenset(
    "no false absent negative 0 \u65e0 \u5426 \u4e0d\u5b58\u5728 \u9634\u6027 \u672a\u89c1".split()
) | {"not exist"}
_EDGE = " .,:;!?\uff0c\u3002\uff1a\uff1b\uff01\uff1f"
_FIRST_NUMBER = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?")


class DeepTumorVQA(Benchmark):
    """Unweighted means over subtypes, within each type and in all (Table 2's Total Average).

    `official`: the paper's scripts (v1's repository has none): equality of strings, character by
    character, and MRA with `<` for numbers. `strict`: the option that the answer names, normalised
    text, thousands separators read. Numbers with an unreadable answer score 0 under both.
    """

    name = "deeptumorvqa"
    tables = (2, 5, 6)
    differences = (
        "official wants the supervised answer to the character, and skips a yes or no that it "
        "cannot read in Table 5; strict reads letters, option texts and normalised text, reads "
        '"1,234" as 1234, and counts an unreadable yes or no as wrong. MRA is the paper\'s in both.'
    )

    def variants(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        parts = {"Multi-choice": [], "Free-text": []}
        for row in rows:
            parts["Multi-choice" if is_choice(row) else "Free-text"].append(row)
        return {name: part for name, part in parts.items() if part}

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        judged = [self.judge(row, protocol) for row in rows]
        self._subtypes(scored, rows, judged)
        clinical = [row for row in rows if same_name(subtype_of(row), CLINICAL)]
        if clinical:
            read = [self.yes_no(row, protocol) for row in clinical]
            add_clinical(scored, "Kidney tumor", clinical, read, wrong=protocol == "strict")
        scored.tokens("Tokens", rows)
        return scored

    def judge(self, row: Row, protocol: str) -> Judged:
        """One question: choice, number or text."""
        strict = protocol == "strict"
        if is_choice(row):
            return strict_choice(row) if strict else by_value(row, text_of(row) == answer_of(row))
        if squash(subtype_of(row)) in NUMERIC_KEYS:
            return Judged(_mra(row, strict))
        gold = metrics.normalize_text(answer_of(row))
        plain = metrics.normalize_text(text_of(row))
        right = plain == gold != "" if strict else text_of(row) == answer_of(row)
        return Judged(float(right), gold, gold if right else UNREAD if plain == gold else plain)

    def yes_no(self, row: Row, protocol: str) -> tuple[bool | None, bool | None]:
        """(truth, answer) of an existence question; None where it cannot be read."""
        if is_choice(row):
            texts = option_texts(row)
            parsed = metrics.parse_letter(text_of(row), row.get("choices"))
            return _bool(texts.get(gold_letter(row), "")), _bool(texts.get(parsed or "", ""))
        return _bool(answer_of(row)), _bool(text_of(row))

    def _subtypes(self, scored: Scored, rows: Sequence[Row], judged: Sequence[Judged]) -> None:
        members: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            members.setdefault(type_of(row), []).append(i)
        order = [name for name in (*TYPES.values(), *sorted(members)) if name in members]
        for name in dict.fromkeys(order):
            chosen = members[name]
            for subtype in sorted({subtype_of(rows[i]) for i in chosen}):
                part = [i for i in chosen if subtype_of(rows[i]) == subtype]
                self._subtype(scored, name, subtype, [rows[i] for i in part],
                              [judged[i] for i in part])  # fmt: skip
            self._average(scored, name, [rows[i] for i in chosen], [judged[i] for i in chosen])
        self._average(scored, "Total", rows, judged)

    def _subtype(
        self,
        scored: Scored,
        group: str,
        subtype: str,
        rows: Sequence[Row],
        judged: Sequence[Judged],
    ) -> None:
        ids = [str(r["id"]) for r in rows]
        label = subtype + "*" if squash(subtype) in NUMERIC_KEYS else subtype
        scored.measures[group, label] = mean_of(
            ids, [subtype] * len(ids), [j.value for j in judged]
        )
        if all(j.gold is not None for j in judged):
            part = Scored()
            part.closed(subtype, rows, judged)
            if balanced := part.measures.get((subtype, "Balanced accuracy")):
                scored.measures[f"{group} {subtype}", "Balanced accuracy"] = balanced
                scored.confusion |= part.confusion

    def _average(
        self, scored: Scored, group: str, rows: Sequence[Row], judged: Sequence[Judged]
    ) -> None:
        """Each subtype counts once."""
        names = [f"{type_of(r)}/{subtype_of(r)}" for r in rows]
        values = [j.value for j in judged]
        scored.measures[group, "Average"] = mean_of([str(r["id"]) for r in rows], names, values)


def add_clinical(
    scored: Scored,
    group: str,
    rows: Sequence[Row],
    read: Sequence[tuple[bool | None, bool | None]],
    wrong: bool,
) -> None:
    """Sensitivity, specificity and accuracy of yes-or-no questions (Table 5).

    read: (truth, answer) of each. An answer that cannot be read is `wrong`, or left out with a note
    of how many.
    """
    used = [
        (str(row["id"]), truth, truth == answer)
        for row, (truth, answer) in zip(rows, read, strict=True)
        if truth is not None and (wrong or answer is not None)
    ]
    if len(used) < len(rows):
        scored.notes.append(f"{group}: {len(rows) - len(used)} of {len(rows)} are left out")
    if not used:
        return
    ids = tuple(key for key, _, _ in used)
    truth = np.array([t for _, t, _ in used], dtype=float)
    right = np.array([r for _, _, r in used], dtype=float)
    weights = {"Sensitivity": truth, "Specificity": 1 - truth, "Accuracy": np.ones_like(truth)}
    for name, weight in weights.items():
        stats = np.stack([right * weight, weight], axis=-1)
        scored.measures[group, name] = Measure(ids, (group,) * len(ids), stats)


def _mra(row: Row, strict: bool) -> float:
    """The paper's MRA; its number is the first in the text, signs read wherever they stand."""
    if strict:
        number = metrics.parse_number(text_of(row), thousands=True)
        value = row.get("value")
        target = metrics.parse_number(answer_of(row), thousands=True) if value is None else value
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
    return TYPES.get(squash(str(row.get("task"))), str(row.get("task")))


def subtype_of(row: Row) -> str:
    """A question's subtype with spaces between its words."""
    return " ".join(str(row.get("subtask")).replace("_", " ").split())
