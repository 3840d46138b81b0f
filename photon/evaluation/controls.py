"""What a result must beat: constant answers, another patient's volume, random tokens.

Pure assignments and answers; the evaluation loop runs the model on them. Records and prediction
rows are both accepted (attributes or keys `id, volume, patient, subtask, question_type, choices,
...`).
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from photon.errors import InputError
from photon.evaluation.metrics import normalize_text
from photon.evaluation.predictions import RECORD_KEYS
from photon.evaluation.protocols import (
    Protocol,
    gold_letter,
    kind_of,
    score_row,
    subtask_names,
    summarize,
)
from photon.volume.sources import Source


@dataclass(frozen=True)
class ConstantAnswers:
    """The constant-answer control: one answer per question, and where it came from.

    source: "train" (majorities of the training answers) or "test" (of the scored answers
    themselves: an upper bound). rules: per subtask, "letter" or "text" for choice questions,
    whichever scored better. answers: per subtask and kind, the constant itself.
    """

    source: str
    predictions: list[str]
    rules: dict[str, str]
    answers: dict[str, dict[str, str]]
    summary: dict[str, Any]


def constant_control(
    records: Sequence[Any], train: Sequence[Any] | None = None, protocol: Protocol | None = None
) -> dict[str, ConstantAnswers]:
    """Constant-answer controls {"test": ..., "train": ...}; "train" only with training records.

    Per subtask: choice questions get the majority letter, or the option with the most frequent
    right answer text (the majority letter where that is not on offer), whichever scores better;
    text the most frequent answer; numbers the median value. A subtask without training answers
    falls back to the majorities of all training answers of its kind.
    """
    rows = [as_row(record) for record in records]
    out = {}
    if train is not None and len(train):
        out["train"] = _constant("train", rows, [as_row(record) for record in train], protocol)
    out["test"] = _constant("test", rows, rows, protocol)
    return out


def as_row(record: Any) -> dict[str, Any]:
    """Record or mapping as a row of the keys that scoring reads."""
    if isinstance(record, Mapping):
        return dict(record)
    return {key: getattr(record, key, None) for key in RECORD_KEYS}


def _constant(
    source: str,
    rows: list[dict[str, Any]],
    known: list[dict[str, Any]],
    protocol: Protocol | None,
) -> ConstantAnswers:
    joint = subtask_names([*rows, *known])  # together, so that both sides use the same names
    names, known_names = joint[: len(rows)], joint[len(rows) :]
    everything = _Majorities(known)
    predictions: list[str] = [""] * len(rows)
    rules: dict[str, str] = {}
    answers: dict[str, dict[str, str]] = {}
    for name in sorted(set(names)):
        table = _Majorities([r for r, n in zip(known, known_names, strict=True) if n == name])
        members = [i for i, n in enumerate(names) if n == name]
        choice = [i for i in members if kind_of(rows[i]) == "choice"]
        answers[name] = table.describe(everything)
        if choice:
            options = {
                rule: [table.choice(rows[i], rule, everything) for i in choice]
                for rule in ("letter", "text")
            }
            rule = max(options, key=lambda r: _hits(rows, choice, options[r], protocol))
            rules[name] = rule
            for i, prediction in zip(choice, options[rule], strict=True):
                predictions[i] = prediction
        for i in set(members) - set(choice):
            predictions[i] = table.free(kind_of(rows[i]), everything)
    filled = [{**r, "prediction": p} for r, p in zip(rows, predictions, strict=True)]
    return ConstantAnswers(source, predictions, rules, answers, summarize(filled, protocol))


def _hits(
    rows: list[dict[str, Any]], chosen: list[int], answers: list[str], protocol: Protocol | None
) -> int:
    pairs = zip(chosen, answers, strict=True)
    return sum(bool(score_row({**rows[i], "prediction": a}, protocol).correct) for i, a in pairs)


class _Majorities:
    """Answer counts of a set of rows, by kind. Ties go to the alphabetically first answer."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.letters: Counter[str] = Counter()
        self.options: Counter[str] = Counter()
        self.texts: Counter[str] = Counter()
        self.raw: dict[str, str] = {}
        self.values: list[float] = []
        for row in rows:
            kind = kind_of(row)
            if kind == "choice":
                letter = gold_letter(row)
                self.letters[letter] += 1
                choices = {k.upper(): v for k, v in (row.get("choices") or {}).items()}
                self.options[normalize_text(choices.get(letter)) or letter] += 1
            elif kind == "number":
                self.values.append(float(row["value"]))
            elif row.get("answer") is not None:
                text = normalize_text(str(row["answer"]))
                self.texts[text] += 1
                self.raw.setdefault(text, str(row["answer"]))

    def choice(self, row: Mapping[str, Any], rule: str, fallback: _Majorities) -> str:
        """Letter that a rule answers to a choice question, whatever the volume."""
        table = self if self.letters else fallback
        choices = {k.upper(): normalize_text(v) for k, v in (row.get("choices") or {}).items()}
        letters = [x for x in _ranked(table.letters) if not choices or x in choices]
        letter = letters[0] if letters else min(choices, default="")
        if rule == "letter":
            return letter
        # One text only: going down a list of texts would look answers up where each occurs once.
        favourite = next(iter(_ranked(table.options)), None)
        repeated = table.options[favourite] > 1
        offered = sorted(k for k, v in choices.items() if v == favourite and repeated)
        return offered[0] if offered else letter

    def free(self, kind: str, fallback: _Majorities) -> str:
        """Constant answer to free questions; empty if there is nothing to learn it from."""
        if kind == "number":
            values = self.values or fallback.values
            return f"{float(np.median(values)):.6g}" if values else ""
        table = self if self.texts else fallback
        ranked = _ranked(table.texts)
        return table.raw[ranked[0]] if ranked else ""

    def describe(self, fallback: _Majorities) -> dict[str, str]:
        """The constants of these rows, for the report."""
        out = {}
        if self.letters:
            out["letter"], out["option"] = _ranked(self.letters)[0], _ranked(self.options)[0]
        if self.texts:
            out["text"] = self.free("text", fallback)
        if self.values:
            out["number"] = self.free("number", fallback)
        return out


def _ranked(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda key: (-counts[key], key))


# Other volumes and random tokens -----------------------------------------------------------------


def shuffled_volumes(records: Sequence[Any], seed: int = 0) -> dict[Source, Source]:
    """For each volume a volume of another patient: {volume: other volume}, seeded.

    All questions of a volume move together, so that the prefix is still shared. It is a permutation
    (each volume is used once), unless one patient has more than half of all volumes: then volumes
    of the others are used several times, with a warning. InputError if there is one patient only.
    Does not depend on the order of the records. A record without a patient counts its volume as
    one.
    """
    patient_of: dict[Source, str] = {}
    for record in records:
        row = as_row(record)
        patient = row.get("patient")
        owner = f"patient {patient}" if patient is not None else f"volume {row['volume']}"
        for volume in getattr(record, "volumes", (row["volume"],)):
            if patient_of.setdefault(volume, owner) != owner:
                raise InputError(
                    f"volume {volume} belongs to two patients ({patient_of[volume]} and "
                    f"{owner}). Correct the records."
                )
    groups: dict[str, list[Source]] = {}
    for volume in sorted(patient_of, key=str):  # a path, or those of frames
        groups.setdefault(patient_of[volume], []).append(volume)
    if len(groups) < 2:
        raise InputError(
            "shuffled_volume needs volumes of two patients or more, and the data set has "
            f"{len(groups)}. Leave this control out (controls), or add a patient."
        )
    rng = np.random.default_rng(seed)
    order = [groups[owner] for owner in rng.permutation(sorted(groups)).tolist()]
    order.sort(key=len)  # so that two scans of a patient mostly become two scans of another
    line = [volume for group in order for volume in group]
    largest = max(len(group) for group in order)
    if 2 * largest <= len(line):  # moving on by the largest group leaves every patient's own block
        return dict(zip(line, line[largest:] + line[:largest], strict=True))
    warnings.warn(
        f"one patient has {largest} of {len(line)} volumes: shuffled volumes repeat", stacklevel=2
    )
    out = {}
    for volume in line:
        others = [v for v in line if patient_of[v] != patient_of[volume]]
        out[volume] = others[int(rng.integers(len(others)))]
    return out


def random_keep_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Kept tokens per question id, from Photon's own predictions: what random keep may spend."""
    counts = {}
    for row in rows:
        if row.get("kept_tokens") is None:
            raise InputError(
                f"question {row.get('id')} has no kept_tokens, so random_keep has no budget. "
                "Run the pruned condition first."
            )
        counts[str(row["id"])] = int(row["kept_tokens"])
    return counts


def random_keep_mask(question_id: str, count: int, total: int, seed: int = 0) -> np.ndarray:
    """Bool [total] with `count` tokens kept, uniform; depends on the id and the seed only."""
    if not 0 <= count <= total:
        raise ValueError(f"count={count} must be within 0..{total}")
    digest = hashlib.sha256(f"{seed}:{question_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    mask = np.zeros(total, dtype=bool)
    mask[rng.permutation(total)[:count]] = True
    return mask
