"""NExT-QA: five options, accuracy by question type (Table 10)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from photon.benchmarks.protocol import (
    Benchmark,
    Bert,
    Judged,
    Row,
    Scored,
    by_value,
    strict_choice,
    text_of,
)
from photon.evaluation.protocols import gold_letter

TYPES = {
    "CH": "Causal-How",
    "CW": "Causal-Why",
    "DC": "Desc.-Count",
    "DL": "Desc.-Loc",
    "DO": "Desc.-Other",
    "TC": "Temp.-Now",
    "TN": "Temp.-Next",
    "TP": "Temp.-Present",  # the paper's name; the benchmark's is "previous"
}
FOLDED = {"C": "Acc_C", "T": "Acc_T", "D": "Acc_D"}


class NextQA(Benchmark):
    """Accuracy over all questions, by type and by the three groups of the benchmark.

    `official` (`eval_mc.py`): an answer is an option's index 0 to 4 or its letter and nothing else;
    "previous" (TP) counts among "next" (TN). `paper`: the same answers, with TP apart (Table 10).
    `strict`: the one option that the answer names in any form, TP apart.
    """

    name = "nextqa"
    protocols = ("official", "paper", "strict")
    tables = (10,)
    differences = (
        'official and paper want the option\'s index or letter alone; official counts "previous" '
        'questions as "next"; strict reads the one option that the answer names in any form.'
    )

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        judged = [judge(row, protocol) for row in rows]
        scored.closed("NExT-QA", rows, judged, "Avg. Acc")
        groups = {title: (code,) for code, title in TYPES.items()}
        if protocol == "official":
            del groups[TYPES["TP"]]
            groups[TYPES["TN"]] = ("TN", "TP")
        groups |= {title: tuple(c for c in TYPES if c[0] == key) for key, title in FOLDED.items()}
        for title, codes in groups.items():
            part = [i for i, r in enumerate(rows) if type_of(r) in codes]
            one = Scored()
            one.closed(title, [rows[i] for i in part], [judged[i] for i in part])
            if (title, "Accuracy") in one.measures:
                scored.measures["NExT-QA", title] = one.measures[title, "Accuracy"]
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
        code = next((c for c, t in TYPES.items() if str(name) in (c, t)), None)
        if code:
            return code
    return ""
