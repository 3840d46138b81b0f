"""Metrics of one answer or of a list of answers; no knowledge of files, subtasks or models.

An absent prediction (None) and a blank one are the same thing: an empty answer. It is never
dropped; it is wrong for a choice, an exact match or a number, and adds nothing to BLEU-1 and
ROUGE-1.

Number parsing: the first number in the text, with sign, decimal point and exponent ("about -3.5e1
HU" is -35; "1,234.5" is 1234.5). Units are not converted: the number is read in the unit of the
question.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

MraConvention = Literal["strict", "vsi", "continuous"]
MRA_CONVENTIONS: tuple[str, ...] = ("strict", "vsi", "continuous")
# Literals, as 0.50 + 0.05 i drifts; VSI-Bench uses linspace, and its rounding decides ties.
STRICT_THRESHOLDS = np.array([0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90, 0.95])
VSI_THRESHOLDS = np.linspace(0.5, 0.95, 10)

_NUMBER = re.compile(
    r"(?:(?<!\w)[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
)


def _unify(text: str | None) -> str:
    """NFKC, every dash and minus sign as "-", white space collapsed."""
    text = unicodedata.normalize("NFKC", text or "")
    text = "".join("-" if unicodedata.category(c) == "Pd" or c == "\u2212" else c for c in text)
    return " ".join(text.split())


@functools.lru_cache(maxsize=1 << 16)  # answers and options repeat a lot
def normalize_text(text: str | None) -> str:
    """Lower case, without punctuation that carries no number.

    "Left-sided." becomes "left sided"; "1.5 cm", "-50 HU", "3-4", "10:30" and "50%" keep their
    signs, so that 1.5 and 15 stay different.
    """
    text = _unify(text).lower()
    kept = []
    for i, char in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        numeric = after.isdigit() and (before.isdigit() or char in "-." and not before.isalnum())
        is_mark = unicodedata.category(char).startswith("P") and char != "%"
        kept.append(char if not is_mark or numeric else " " if char in "-/_" else "")
    return " ".join("".join(kept).split())


def exact_match(prediction: str | None, answer: str) -> bool:
    """Equality after `normalize_text`; an empty prediction never matches."""
    text = normalize_text(prediction)
    return text != "" and text == normalize_text(answer)


def parse_number(text: str | None) -> float | None:
    """First number in the text, or None."""
    match = _NUMBER.search(_unify(text))
    return float(match.group().replace(",", "")) if match else None


def parse_number_vsi(text: str | None) -> float | None:
    """VSI-Bench's reading: what stands before the first blank, without its final ".", as a number.

    Only a blank separates: "12\\n34" is no number there.
    """
    first = (text or "").split(" ")[0].rstrip(".").strip()
    try:
        value = float(first) if first else None
    except ValueError:
        return None
    return None if value is None or np.isnan(value) else value


def mean_relative_accuracy(
    prediction: float | None, target: float, convention: MraConvention = "strict"
) -> float:
    """Mean over thresholds t = .50, .55, ... .95 of [relative error within 1 - t], in [0, 1].

    `strict`: |p - y| / max(|y|, 1e-6) < 1 - t (the paper's script). `vsi`: (|p - y| / y) <= 1 - t
    (VSI-Bench, where a negative target makes everything right; a target of 0, on which it divides
    by zero, is defined here as right only if the prediction is 0). (75, 100) gives 0.5 strict and
    0.6 in VSI's. The comparison is in floating point in both, as published: strict (95, 100) is
    1.0, not 0.9. `continuous`: max(0, 1 - |p - y| / |y|), no thresholds, which DeepTumorVQA v2
    calls MRA too: 0.75 for (75, 100).
    """
    if convention not in MRA_CONVENTIONS:
        raise ValueError(f"convention={convention!r} must be one of {', '.join(MRA_CONVENTIONS)}")
    if not np.isfinite(target):
        raise ValueError(f"target={target!r} must be a finite number")
    if prediction is None or not np.isfinite(prediction):
        return 0.0
    if convention == "strict":
        error = abs(prediction - target) / max(abs(target), 1e-6)
        return float(np.mean(error < 1 - STRICT_THRESHOLDS))
    if target == 0:
        return float(prediction == 0)
    if convention == "continuous":
        return float(max(0.0, 1 - abs(prediction - target) / abs(target)))
    return float(np.mean(abs(prediction - target) / target <= 1 - VSI_THRESHOLDS))


def accuracy(correct: Sequence[bool]) -> float | None:
    """Share of right answers; None where there is no question."""
    return float(np.mean(np.asarray(correct, dtype=float))) if len(correct) else None


def balanced_accuracy(correct: Sequence[bool], classes: Sequence[str]) -> float | None:
    """Unweighted mean over the classes of true answers of the share answered right (mean recall).

    A constant answer scores 1 / (number of classes). None where there is no question.
    """
    if len(correct) != len(classes):
        raise ValueError(f"{len(correct)} answers but {len(classes)} classes; give one per answer")
    if not len(correct):
        return None
    index = np.unique(np.asarray(classes, dtype=str), return_inverse=True)[1]
    hits = np.bincount(index, weights=np.asarray(correct, dtype=float))
    return float(np.mean(hits / np.bincount(index)))


def bleu1(predictions: Sequence[str | None], references: Sequence[str]) -> float | None:
    """Corpus BLEU-1 in [0, 1]: 13a tokens, case-sensitive, no smoothing, with brevity penalty.

    Equals Hugging Face `evaluate` bleu with max_order=1, which 3D-RAD uses, except that all-empty
    predictions score 0 here and divide by zero there. None where there is no question.
    """
    _same_length(predictions, references)
    if not len(predictions):
        return None
    texts = [(text or "").strip() for text in predictions]
    if not any(texts):
        return 0.0
    return bleu_scorer().corpus_score(texts, [[r.strip() for r in references]]).score / 100


def rouge1(predictions: Sequence[str | None], references: Sequence[str]) -> float | None:
    """Plain mean of ROUGE-1 F in [0, 1], without stemming; None where there is no question.

    rouge-score lower-cases and keeps a-z and 0-9 only: an answer in another script scores 0.
    """
    _same_length(predictions, references)
    if not len(predictions):
        return None
    return float(np.mean([rouge1_one(p, r) for p, r in zip(predictions, references, strict=True)]))


def rouge1_one(prediction: str | None, reference: str) -> float:
    """ROUGE-1 F of one pair; 0 for an empty prediction."""
    return float(_rouge_scorer().score(reference, prediction or "")["rouge1"].fmeasure)


def _same_length(predictions: Sequence, references: Sequence) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} references")


@functools.cache
def bleu_scorer():
    """sacrebleu's corpus BLEU-1 without smoothing."""
    from sacrebleu.metrics import BLEU  # here: half of the package's users never score free text

    return BLEU(max_ngram_order=1, smooth_method="none")


@functools.cache
def _rouge_scorer():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=False)


# Choice letters ---------------------------------------------------------------------------------

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"boxed\{\s*(?:\\text\{)?\s*\(?([A-Za-z])\)?[.]?\s*\}?\s*\}")
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_MARKER = re.compile(
    r"\b(?:final\s+answer|answer)\b[\"'*]*\s*(?:is\b|:|=)\s*:?[\"'*]*\s*", re.IGNORECASE
)
_SEPARATORS = re.compile(r"[\s()\[\]{}<>`*\"'.,;:/&+!-]+")
_LEADING = re.compile(r"[\s(\[*\"']*([A-Za-z])([)\].:,*]+|\s+-)\s*(.*)", re.DOTALL)
_MARKED = re.compile(
    r"(?:\(([A-Za-z])\)|(?<![A-Za-z0-9.])([A-Z])[.):](?![A-Za-z0-9])"
    r"|\b(?:option|choice|letter)\s+\(?([A-Za-z])\b)"
)
_BARE = re.compile(
    r"(?<![A-Za-z0-9'.-])(?:([B-HJ-Z])(?![A-Za-z0-9'-])"
    r"|([AI])(?=\s*[,;.!?]|[ \t]*(?:\n|$)|\s+(?:and|or|but|is\s+(?:correct|right|the))\b))"
)


def parse_letter(text: str | None, choices: Mapping[str, str] | None = None) -> str | None:
    """The one option that a text names, or None where it names none or several.

    Read in this order: reasoning between think tags is removed; boxed{B}; between answer tags; what
    follows "Answer:", "the answer is" or an "answer" key of JSON; the text of an option; "B", "B.",
    "(B)", "B. right"; letters inside a sentence ("option B", "(B)"; an "A" before a noun is an
    article and no option, alone in its line it is one); option texts inside a sentence. A letter
    that is followed by the text of a *different* option names two options.
    Letters that are not among `choices` are no options; without choices A to Z all are.
    """
    text = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", text or "")).strip()
    options = {k.upper(): normalize_text(v) for k, v in (choices or {}).items()}
    for pattern in (_BOXED, _TAGGED, _MARKER):
        found = list(pattern.finditer(text))
        if not found:
            continue
        ends = [m.start() for m in found[1:]] + [len(text)]
        parts = [
            text[m.end() : e] if pattern is _MARKER else m.group(1)
            for m, e in zip(found, ends, strict=True)
        ]
        named = set().union(*(_named_options(part, options) for part in parts))
        if named:
            return _only(named, options)
    return _only(_named_options(text, options), options)


def _only(named: set[str], options: Mapping[str, str]) -> str | None:
    letter = next(iter(named)) if len(named) == 1 else None
    return letter if letter and (not options or letter in options) else None


def _named_options(text: str, options: Mapping[str, str]) -> set[str]:
    """Letters of all the options that a text names, by letter or by their own text."""
    plain = normalize_text(text)
    words = {w.upper() for w in _SEPARATORS.split(text)} - {"", "AND", "OR"}
    if words and all(len(w) == 1 and "A" <= w <= "Z" for w in words):  # nothing but letters
        return words
    by_text = {k for k, v in options.items() if v and v == plain}
    if by_text:
        return by_text
    leading = _LEADING.fullmatch(text)
    if leading:
        letter, rest = leading.group(1).upper(), normalize_text(leading.group(3))
        if options.get(letter, "") == rest and rest:
            return {letter}
        same = {k for k, v in options.items() if v and v == rest}
        if same:
            return same | {letter}
    allowed = set(options) or {chr(c) for c in range(ord("A"), ord("Z") + 1)}
    letters = {g.upper() for m in _MARKED.findall(text) for g in m if g}
    if leading and (leading.group(1).isupper() or ")" in leading.group(2)):  # not the e of "e.g."
        letters.add(leading.group(1).upper())
    letters |= {g for m in _BARE.findall(text) for g in m if g}
    return letters & allowed or _options_in_sentence(plain, options)


def _options_in_sentence(plain: str, options: Mapping[str, str]) -> set[str]:
    """Options whose text stands in a sentence as whole words, outside a longer option's text.

    "left upper lobe" names "left upper lobe", not also the option "left": longer texts are looked
    for first and what they cover is taken out.
    """
    named = set()
    for letter, option in sorted(options.items(), key=lambda item: -len(item[1])):
        if not option:
            continue
        pattern = rf"(?<!\w){re.escape(option)}(?!\w)"
        if re.search(pattern, plain):
            same = {k for k, v in options.items() if v == option}
            named |= same | {letter}
            plain = re.sub(pattern, "|", plain)
    return named
