"""SLAKE: exact match of short answers in English and Chinese (Table 9 uses the MRI questions)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from photon.benchmarks.protocol import (
    UNREAD,
    Benchmark,
    Bert,
    Judged,
    Row,
    Scored,
    answer_of,
    text_of,
)

# Both languages on one word; only whole answers are replaced, never a word inside one.
SYNONYMS = {
    "yes": "yes true correct \u662f \u662f\u7684 \u5bf9 \u6709 \u5b58\u5728 \u6b63\u786e".split(),
    "no": "no false incorrect \u5426 \u4e0d \u4e0d\u662f \u6ca1\u6709 \u65e0".split(),
}
_WORD = {word: key for key, words in SYNONYMS.items() for word in words}


class Slake(Benchmark):
    """SLAKE has no script of its own; `official` is common practice: equality after lower-casing
    and removal of punctuation. `strict` also reads yes and no in either language, and lists
    ("Lung, Spinal Cord") in any order."""

    name = "slake"
    tables = (9,)
    differences = (
        "official: equality after lower-casing and without punctuation (SLAKE publishes no "
        "script); strict: also yes and no in either language, and lists in any order."
    )

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        judged = [judge(row, protocol) for row in rows]
        scored.closed("SLAKE", rows, judged, "Acc.")
        scored.tokens("SLAKE", rows)
        for key in ("task", "q_lang", "modality"):
            for value in sorted({str(r[key]) for r in rows if r.get(key)}):
                part = [i for i, r in enumerate(rows) if str(r.get(key)) == value]
                group = f"SLAKE {value}"
                scored.closed(group, [rows[i] for i in part], [judged[i] for i in part], "Acc.")
        return scored


def judge(row: Row, protocol: str) -> Judged:
    """Right or wrong of one answer."""
    read = plain if protocol == "official" else meaning
    gold, predicted = read(answer_of(row)), read(text_of(row))
    right = predicted == gold != ""
    same = plain(text_of(row)) == plain(answer_of(row))
    return Judged(float(right), gold, gold if right else UNREAD if same else predicted or UNREAD)


def plain(text: str) -> str:
    """Lower case, without punctuation in any script, white space collapsed."""
    text = unicodedata.normalize("NFKC", text).lower()
    kept = [c if unicodedata.category(c)[0] != "P" else " " for c in text]
    return " ".join("".join(kept).split())


def meaning(text: str) -> str:
    """`plain`, with yes and no in one spelling and the parts of a list in one order."""
    text = unicodedata.normalize("NFKC", text).replace("\u3001", ",").replace("\uff0c", ",")
    parts = sorted({plain(part) for part in text.split(",")} - {""})
    return ", ".join(_WORD.get(part, part) for part in parts)
