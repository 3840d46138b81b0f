"""MedFrameQA: choice questions over several frames, accuracy by modality (Tables 7 and 9)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

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
from photon.benchmarks.tables import squash
from photon.evaluation.protocols import gold_letter

MODALITIES = {
    "ct": "CT",
    "mri": "MRI",
    "xray": "X-ray",
    "ultrasound": "Ultrasound",
    "other": "Other",
}
_MARKERS = ("Answer:", "Answer*", "Final Answer", "final answer")
_MARKS = ",.!?;:'"


class MedFrameQA(Benchmark):
    """`official`: the parser of the benchmark's `eval_process.py`; a question without any answer is
    left out, as there. `strict`: the one option that the answer names, letters up to the last
    option, and an absent answer is wrong."""

    name = "medframeqa"
    tables = (7, 9)
    differences = (
        "official: the benchmark's parser, which takes the first capital that is an option's "
        'letter after "Answer:" (the B of "Both"), and leaves empty answers out; strict: the one '
        "option that the answer names, and empty answers are wrong."
    )

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        judged = [judge(row, protocol) for row in rows]
        scored.closed("MedFrameQA", rows, judged, "Overall")
        for title in MODALITIES.values():
            part = [i for i, r in enumerate(rows) if modality_of(r) == title]
            one = Scored()
            one.closed(title, [rows[i] for i in part], [judged[i] for i in part])
            if (title, "Accuracy") in one.measures:
                scored.measures["MedFrameQA", title] = one.measures[title, "Accuracy"]
        scored.tokens("MedFrameQA", rows)
        return scored

    def choice_text(self, row: Row, letter: str, protocol: str) -> str:
        return f"Answer: {letter}"


def judge(row: Row, protocol: str) -> Judged:
    """Right or wrong of one answer."""
    if protocol == "strict":
        return strict_choice(row)
    if not text_of(row):
        return Judged(0.0, skipped=True)
    choices = {k.upper(): v for k, v in (row.get("choices") or {}).items()}
    return by_value(row, official_letter(text_of(row), choices) == gold_letter(row))


def official_letter(text: str, choices: Mapping[str, str]) -> str:
    """The letter that the benchmark's parser finds; "" for none.

    In order: boxed{X}; the first option letter after the last marker ("Answer:", "Final Answer");
    "(X)"; "X."; in answers of more than five words the text of an option. Of several the last.
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
            return max(places)[1]
    if len(text.split()) > 5:
        lower = text.lower()
        # Option texts end at their first ". ", as the benchmark cuts "A. text" there.
        options = {x: v.split(". ")[0].lower() for x, v in choices.items()}
        places = [(lower.rfind(v), x) for x, v in options.items() if v in lower]
        if places:
            return max(places)[1]
    return ""


def modality_of(row: Row) -> str:
    """The column of Table 7; what is none of its four modalities is Other."""
    name = squash(str(row.get("modality") or row.get("subtask")))
    return next((title for key, title in MODALITIES.items() if key in name), "Other")
