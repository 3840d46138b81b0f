"""Answers from the words of a question alone, learnt from training questions of the same subtask.

Two rules: the answer of the nearest training question (cosine of binary word and word-pair
vectors), and naive Bayes on the same vectors. Each subtask takes the rule that is better on its
training questions, learnt on one half of the patients and tried on the other. Numbers, which have
no classes, and subtasks without training questions keep the constant answer.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from photon.evaluation.blind import Blind, as_row, constants
from photon.evaluation.intervals import patient_of
from photon.evaluation.metrics import normalize_text
from photon.evaluation.scores import gold_letter, kind_of, subtask_names

_WORD = re.compile(r"\w+|[^\w\s]")
MOST = 4000  # training questions of a subtask that are compared with, by the hash of their id
Rule = Callable[[np.ndarray], np.ndarray]  # [Q, words] -> class of each question


def text_rule(records: Sequence[Any], train: Sequence[Any]) -> Blind:
    """The rule's answer to every record."""
    rows, known = [as_row(r) for r in records], [as_row(r) for r in train]
    base = constants(rows, known)["train"]
    answers, chosen = list(base.answers["score"]), {}
    joint = subtask_names([*rows, *known])
    names, known_names = joint[: len(rows)], joint[len(rows) :]
    parts: dict[str, list[dict]] = defaultdict(list)
    for row, name in zip(known, known_names, strict=True):
        if kind_of(row) != "number" and _label(row) is not None:
            parts[name].append(row)
    for name, part in parts.items():
        asked = [i for i, n in enumerate(names) if n == name and kind_of(rows[i]) != "number"]
        if asked:
            rule, said = _answer([rows[i] for i in asked], sorted(part, key=_draw)[:MOST])
            chosen[name] = {"rule": rule}
            for i, text in zip(asked, said, strict=True):
                answers[i] = _written(rows[i], text) or answers[i]
    return Blind("train", {"score": answers}, chosen)


def _draw(row: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(str(row["id"]).encode()).digest()


def _label(row: Mapping[str, Any]) -> str | None:
    """What is learnt: the text of the right option, or the answer."""
    if kind_of(row) == "choice":
        letter = gold_letter(row)
        options = {k.upper(): v for k, v in (row.get("choices") or {}).items()}
        return normalize_text(options.get(letter)) or letter
    return None if row.get("answer") is None else str(row["answer"])


def _written(row: Mapping[str, Any], text: str) -> str | None:
    """The letter that offers a text; None where none does. Free text as it is."""
    if kind_of(row) != "choice":
        return text
    offered = {normalize_text(v) or k.upper(): k.upper() for k, v in (row["choices"] or {}).items()}
    return offered.get(text)


def _answer(rows: Sequence[Mapping], known: Sequence[Mapping]) -> tuple[str, list[str]]:
    """(name of the better rule, its answers to `rows`)."""
    labels = [_label(row) for row in known]
    classes = list(dict.fromkeys(labels))
    codes = np.array([classes.index(label) for label in labels])
    words = [_words(row) for row in [*known, *rows]]
    counts = Counter(word for own in words[: len(known)] for word in own)
    place = {word: i for i, (word, n) in enumerate(counts.most_common(3000)) if n > 1}
    vectors = np.zeros((len(words), max(1, len(place))), np.float32)
    for i, own in enumerate(words):
        vectors[i, [place[word] for word in own if word in place]] = 1
    seen, asked = vectors[: len(known)], vectors[len(known) :]
    half = np.array([hashlib.sha256(patient_of(row).encode()).digest()[0] % 2 for row in known])
    rules = {"nearest": _nearest, "words": _bayes}
    scores = {}
    for name, learn in rules.items():
        tried = [
            (learn(seen[half == a], codes[half == a])(seen[half != a]) == codes[half != a])
            for a in (0, 1)
            if 0 < (half == a).sum() < len(half)
        ]
        scores[name] = float(np.mean(np.concatenate(tried))) if tried else 0.0
    best = max(scores, key=scores.__getitem__)
    return best, [classes[code] for code in rules[best](seen, codes)(asked)]


def _words(row: Mapping[str, Any]) -> set[str]:
    """Words, signs and pairs of neighbours: "0 ]" is the last value of a history."""
    text = str(row.get("question") or "").lower().split("\na. ")[0]
    words = _WORD.findall(text)
    return {*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))}


def _nearest(vectors: np.ndarray, codes: np.ndarray) -> Rule:
    """The commonest class among the training questions of the greatest cosine."""

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)

    one_hot = np.eye(codes.max() + 1, dtype=np.float32)[codes]

    def rule(asked: np.ndarray) -> np.ndarray:
        near = unit(asked) @ unit(vectors).T
        closest = near >= near.max(axis=1, keepdims=True) - 1e-5
        return (closest.astype(np.float32) @ one_hot).argmax(axis=1)

    return rule


def _bayes(vectors: np.ndarray, codes: np.ndarray) -> Rule:
    """Bernoulli naive Bayes with add-one smoothing."""
    one_hot = np.eye(codes.max() + 1, dtype=np.float64)[codes]
    size = one_hot.sum(axis=0)
    there = (one_hot.T @ vectors + 1) / (size[:, None] + 2)
    prior = np.log((size + 1e-9) / size.sum())
    weights, base = np.log(there / (1 - there)), np.log(1 - there).sum(axis=1)

    def rule(asked: np.ndarray) -> np.ndarray:
        return (asked @ weights.T + base + prior).argmax(axis=1)

    return rule
