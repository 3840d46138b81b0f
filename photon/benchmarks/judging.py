"""What all protocols share: judged answers, and measures of them keyed like a table's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from photon.evaluation import metrics
from photon.evaluation.intervals import Measure, balanced_of, mean_of
from photon.evaluation.scores import gold_letter, kind_of

Row = Mapping[str, Any]
Key = tuple[str, str]  # (group, measure): one row of a table
GroupOf = Callable[[Row], str]
Bert = Callable[[Sequence[str], Sequence[str]], np.ndarray]
UNREAD = "(unread)"
YES, NO = frozenset({"yes", "true"}), frozenset({"no", "not", "false"})
MAX_CLASSES = 12  # a confusion table of more classes is no longer read by anyone


@dataclass(frozen=True)
class Judged:
    """One judged answer: a prediction row and what it is worth.

    value: in [0, 1]. gold, predicted: classes of a closed question (UNREAD where none was
    understood), None for numbers. skipped: left out of the counts, as some scripts do.
    """

    row: Row
    value: float
    gold: str | None = None
    predicted: str | None = None
    skipped: bool = False


@dataclass
class Scored:
    """Measures of one set of rows under one protocol; None: not computed (the notes say why).

    confusion: {group: {true class: {understood class: count}}}.
    """

    measures: dict[Key, Measure | None] = field(default_factory=dict)
    confusion: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def mean(self, key: Key, judged: Sequence[Judged], group_of: GroupOf | None = None) -> None:
        """Add the mean of the judged values, without those skipped; nothing where none is left.

        group_of: a row's group; groups (subtasks) count alike, and there is one by default.
        """
        used = [j for j in judged if not j.skipped]
        if used:
            rows = [j.row for j in used]
            groups = None if group_of is None else [group_of(row) for row in rows]
            self.measures[key] = mean_of(rows, [j.value for j in used], groups)

    def closed(
        self,
        group: str,
        judged: Sequence[Judged],
        name: str = "Accuracy",
        group_of: GroupOf | None = None,
    ) -> None:
        """Add accuracy, balanced accuracy and confusion of a group of closed questions.

        group_of: as for `mean`. Balanced accuracy is over the whole group: a subtask may lack a
        class, and would favour a constant answer.
        """
        self.mean((group, name), judged, group_of)
        used = [j for j in judged if not j.skipped]
        if absent := len(judged) - len(used):
            self.notes.append(f"{group}: {absent} of {len(judged)} answers left out")
        classes = [j.gold for j in used]
        if not used or None in classes or len(set(classes)) > MAX_CLASSES:
            return
        rows, values = [j.row for j in used], [j.value for j in used]
        self.measures[group, "Balanced accuracy"] = balanced_of(rows, values, classes)
        table: dict[str, Counter[str]] = {name: Counter() for name in sorted(set(classes))}
        for j in used:
            table[j.gold][j.predicted or UNREAD] += 1
        self.confusion[group] = {name: dict(sorted(c.items())) for name, c in table.items()}

    def tokens(self, group: str, rows: Sequence[Row]) -> None:
        """Add the mean number of kept tokens and the mean keep rate, where rows have them."""
        known = [r for r in rows if r.get("kept_tokens") is not None and r.get("visual_tokens")]
        if known:
            kept = [float(r["kept_tokens"]) for r in known]
            rates = [k / r["visual_tokens"] for k, r in zip(kept, known, strict=True)]
            self.measures[group, "Avg. keep tok."] = mean_of(known, kept, share=False)
            self.measures[group, "Avg. keep rate"] = mean_of(known, rates, share=False)


def in_style(row: Row, letter: str) -> str:
    """A choice written like the row's own answer: as letter, as text, or as "B. text"."""
    choices, answer = row.get("choices") or {}, answer_of(row).strip()
    text = choices.get(letter, letter)
    if answer.rstrip(".") in choices:
        return letter
    plain = metrics.normalize_text(answer)
    if plain in {metrics.normalize_text(option) for option in choices.values()}:
        return text
    return f"{letter}. {text}"


def is_choice(row: Row) -> bool:
    return kind_of(row) == "choice"


def strict_choice(row: Row) -> Judged:
    """Right if the answer names the right option and no other (metrics.parse_letter)."""
    letter, texts = gold_letter(row), option_texts(row)
    parsed = metrics.parse_letter(text_of(row), row.get("choices"))
    predicted = UNREAD if parsed is None else texts.get(parsed, parsed)
    return Judged(row, float(parsed == letter), texts.get(letter, letter), predicted)


def by_value(row: Row, right: bool) -> Judged:
    """A choice judged by a rule of the protocol's own; its classes are those of `strict_choice`.

    An answer that was understood to be right but not counted (its form is wrong) is UNREAD.
    """
    judged = strict_choice(row)
    if right:
        return replace(judged, value=1.0, predicted=judged.gold)
    same = judged.predicted == judged.gold
    return replace(judged, value=0.0, predicted=UNREAD if same else judged.predicted)


def option_texts(row: Row) -> dict[str, str]:
    """Normalised text of each option by letter; the letter itself where the text is empty."""
    choices = row.get("choices") or {}
    return {k.upper(): metrics.normalize_text(v) or k.upper() for k, v in choices.items()}


def text_of(row: Row) -> str:
    """The prediction as text; empty where there is none."""
    prediction = row.get("prediction")
    return "" if prediction is None else str(prediction)


def answer_of(row: Row) -> str:
    """The supervised answer as text."""
    answer = row.get("answer")
    return "" if answer is None else str(answer)


def names_answer(text: str, answer: str, yes: Set[str] = YES, no: Set[str] = NO) -> bool:
    """Whether a sentence says an answer: "The answer is yes." says yes, "No, it is not" says no.

    Yes or no is the one of `yes` and `no` that is said, the first word if both are; any other
    answer has to stand in the text as whole words.
    """
    words, gold = metrics.normalize_text(text).split(), metrics.normalize_text(answer)
    if not words or not gold:
        return False
    for own, other in ((yes, no), (no, yes)):
        if gold in own:
            said = [word in own for word in words if word in own | other]
            return bool(said) and (all(said) or said[0] and words[0] in own)
    if not gold.isascii():  # no blanks between words
        return gold in "".join(words)
    return f" {gold} " in f" {' '.join(words)} "
