"""What a result must beat without a scan: the constant answers that score best.

A constant is learnt from the training answers, or from the test answers themselves (an upper bound
of all constants), one a task or one a subtask. It is chosen for the metric it is scored by: the
commonest answer of 3D-RAD's measurements has a BLEU-1 of 24 and another one of 39.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from photon.evaluation.metrics import STRICT_THRESHOLDS, normalize_text
from photon.evaluation.predictions import RECORD_KEYS
from photon.evaluation.scores import Row, gold_letter, kind_of, subtask_names
from photon.evaluation.text_metrics import constant_scores

Per = Literal["subtask", "task"]
TEXT_METRICS = ("bleu1", "rouge1")  # whose best constant need not be the commonest answer
CANDIDATES = 1000  # constants tried, and values that they are tried on, of a numeric question


@dataclass(frozen=True)
class Blind:
    """Answers to a set of questions that no scan was needed for.

    source: "train" or "test", whose answers they were learnt from. answers: one a question, by
    metric: "score" (accuracy and MRA), and one for each of TEXT_METRICS where free text is asked.
    chosen: {group: {kind of question: its constant}}, for the report.
    """

    source: str
    answers: Mapping[str, list[str]]
    chosen: Mapping[str, Mapping[str, str]]

    def rows(self, rows: Sequence[Row], metric: str = "score") -> list[dict[str, Any]]:
        """Prediction rows with these answers in place of their own."""
        answers = self.answers.get(metric, self.answers["score"])
        blank = {"kept_tokens": None, "visual_tokens": None, "coverage": None}
        return [{**r, **blank, "prediction": a} for r, a in zip(rows, answers, strict=True)]


def as_row(record: Any) -> dict[str, Any]:
    """Record or mapping as a row of the keys that scoring reads."""
    if isinstance(record, Mapping):
        return dict(record)
    return {key: getattr(record, key, None) for key in RECORD_KEYS}


def constants(
    records: Sequence[Any], train: Sequence[Any] | None = None, per: Per = "subtask"
) -> dict[str, Blind]:
    """Constants {"test": ..., "train": ...}; "train" only with training records.

    A group (task or subtask) without training answers takes the constants of all of them. One a
    task is what scores best on average over its subtasks, each counted once.
    """
    rows = [as_row(record) for record in records]
    out = {}
    if train is not None and len(train):
        out["train"] = _constants("train", rows, [as_row(record) for record in train], per)
    out["test"] = _constants("test", rows, rows, per)
    return out


def _constants(source: str, rows: list[dict], known: list[dict], per: Per) -> Blind:
    joint = subtask_names([*rows, *known])  # together, so that both sides use the same names
    names, known_names = joint[: len(rows)], joint[len(rows) :]
    groups, known_groups = names, known_names
    if per == "task":
        groups, known_groups = ([str(row.get("task")) for row in part] for part in (rows, known))
    learnt: dict[str, list[tuple[dict, str]]] = defaultdict(list)
    for row, group, name in zip(known, known_groups, known_names, strict=True):
        learnt[group].append((row, name))
    everything = _Constant(list(zip(known, known_names, strict=True)))
    tables = {g: _Constant(learnt[g]) if g in learnt else everything for g in sorted(set(groups))}
    has_text = any(kind_of(row) == "text" for row in rows)
    answers = {
        metric: [tables[g].answer(r, metric, everything) for r, g in zip(rows, groups, strict=True)]
        for metric in ("score", *(TEXT_METRICS if has_text else ()))
    }
    return Blind(source, answers, {g: table.described for g, table in tables.items()})


class _Constant:
    """The best constants of a group of known answers, given as (row, subtask)."""

    def __init__(self, known: Sequence[tuple[dict, str]]) -> None:
        of_kind: dict[str, dict[str, list[dict]]] = {}
        for row, name in known:
            of_kind.setdefault(kind_of(row), {}).setdefault(name, []).append(row)
        self.letters: list[str] = []
        self.described: dict[str, str] = {}
        if parts := of_kind.get("choice"):
            self._learn_choice(list(parts.values()))
        if parts := of_kind.get("number"):
            values = [[float(row["value"]) for row in part] for part in parts.values()]
            self.described["number"] = f"{_best_number(values):.6g}"
        texts = [
            [str(row["answer"]) for row in part if row.get("answer") is not None]
            for part in of_kind.get("text", {}).values()
        ]
        if texts := [part for part in texts if part]:
            self.described |= _best_texts(texts)

    def _learn_choice(self, parts: list[list[dict]]) -> None:
        self.letters = _ranked([[gold_letter(row) for row in part] for part in parts])
        texts = [[_option(row, gold_letter(row)) for row in part] for part in parts]
        favourite = _ranked(texts)[0]
        # One that is right once only would look that question's answer up.
        repeated = sum(part.count(favourite) for part in texts) > 1
        rules = {"option": favourite, "letter": None} if repeated else {"letter": None}

        def share(text: str | None) -> float:
            hits = [[self._letter(r, text) == gold_letter(r) for r in part] for part in parts]
            return float(np.mean([np.mean(part) for part in hits]))

        rule = max(rules, key=lambda name: share(rules[name]))
        self.described[rule] = self.letters[0] if rule == "letter" else favourite

    def _letter(self, row: Mapping[str, Any], text: str | None) -> str:
        """The letter that always `text` (else always one letter) answers to a choice question."""
        choices = {k.upper(): normalize_text(v) for k, v in (row.get("choices") or {}).items()}
        offered = sorted(k for k, v in choices.items() if v == text) if text else []
        on_offer = [x for x in self.letters if not choices or x in choices]
        return (offered or on_offer or [min(choices, default="")])[0]

    def answer(self, row: Mapping[str, Any], metric: str, fallback: _Constant) -> str:
        """The constant answer to a question; that of `fallback` where its kind is new here."""
        kind, own = kind_of(row), self.described
        if kind == "choice":
            table = self if self.letters else fallback
            return table._letter(row, table.described.get("option"))
        key = "number" if kind == "number" else metric
        return own.get(key, fallback.described.get(key, ""))


def _option(row: Mapping[str, Any], letter: str) -> str:
    choices = {k.upper(): v for k, v in (row.get("choices") or {}).items()}
    return normalize_text(choices.get(letter)) or letter


def _ranked(parts: Sequence[Sequence[Hashable]]) -> list:
    """Values by their mean share over the parts, each counted once; ties in alphabetical order."""
    shares: Counter = Counter()
    for part in parts:
        for value, count in Counter(part).items():
            shares[value] += count / len(part) / len(parts)
    return sorted(shares, key=lambda value: (-shares[value], value))


def _best_number(parts: Sequence[Sequence[float]]) -> float:
    """The known value with the best mean relative accuracy on average over the parts."""
    thinned = [_thin(np.sort(np.asarray(part))) for part in parts]
    tried = _thin(np.unique(np.concatenate(thinned)))
    scores = np.zeros(len(tried))
    for part in thinned:
        error = np.abs(tried[:, None] - part) / np.maximum(np.abs(part), 1e-6)
        for threshold in STRICT_THRESHOLDS:
            scores += (error < 1 - threshold).mean(axis=1) / len(parts)
    return float(tried[int(np.argmax(scores))])


def _thin(values: np.ndarray) -> np.ndarray:
    """At most CANDIDATES of sorted values, evenly by rank."""
    if len(values) <= CANDIDATES:
        return values
    return values[np.linspace(0, len(values) - 1, CANDIDATES).round().astype(int)]


def _best_texts(parts: Sequence[Sequence[str]]) -> dict[str, str]:
    """The known answer that is best by exact match ("score"), BLEU-1 and ROUGE-1."""
    plain = [[normalize_text(text) for text in part] for part in parts]
    ranked = _ranked(plain)
    written: dict[str, str] = {}
    for text, key in zip(sum(map(list, parts), []), sum(plain, []), strict=True):
        written.setdefault(key, text)
    tried = [written[key] for key in ranked[:CANDIDATES]]
    scores = {metric: np.zeros(len(tried)) for metric in TEXT_METRICS}
    for part in parts:
        for metric, values in constant_scores(tried, part).items():
            scores[metric] += values / len(parts)
    best = {metric: tried[int(np.argmax(scores[metric]))] for metric in TEXT_METRICS}
    return {"score": tried[0], **best}
