"""How one question is scored, and how scores are put together per subtask, per task and overall.

A question is one of three kinds:
- `choice`: right when the answer names the one right letter (metrics.parse_letter);
- `number`: free text with a numeric `value`; scored by mean relative accuracy (MRA), and it has no
  right or wrong, so it never enters an accuracy;
- `text`: other free text; right on a normalised exact match; BLEU-1 and ROUGE-1 beside it.

`score` of a group is the mean of one number per question: right or wrong, or MRA. It is what
DeepTumorVQA calls the average of a subtype. The mean over subtasks (macro) counts each subtask
once, whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from photon.errors import InputError
from photon.evaluation import metrics

Kind = Literal["choice", "number", "text"]
Row = Mapping[str, Any]
MACRO_KEYS = ("score", "accuracy", "balanced_accuracy", "mra", "bleu1", "rouge1")


@dataclass(frozen=True)
class Score:
    """One scored answer. `correct` is None for numbers, `mra` for all else; `rouge1` is for text.

    `gold` is the class of the true answer (for choices the text of the right option, as letters are
    shuffled); `parsed` is what was understood: a letter, a number or the normalised text.
    """

    kind: Kind
    gold: str
    parsed: str | float | None
    correct: bool | None
    mra: float | None
    empty: bool
    rouge1: float | None = None

    @property
    def value(self) -> float:
        """One number in [0, 1] for any kind."""
        return float(self.mra if self.correct is None else self.correct)


def kind_of(row: Row) -> Kind:
    """choice, number or text, from `question_type` and `value` (missing type: choices decide)."""
    kind = row.get("question_type") or ("choice" if row.get("choices") else "free")
    if kind == "choice":
        return "choice"
    if kind != "free":
        raise InputError(
            f"question {row.get('id')}: question_type {kind!r} is unknown. Use 'choice' or 'free'."
        )
    return "text" if row.get("value") is None else "number"


def gold_letter(row: Row) -> str:
    """Letter of the right option: `answer_letter`, or parsed from `answer`."""
    letter = str(row.get("answer_letter") or "").strip().upper()
    letter = letter or metrics.parse_letter(_text(row.get("answer")), row.get("choices"))
    choices = row.get("choices")
    if not letter or (choices and letter not in {k.upper() for k in choices}):
        raise InputError(
            f"question {row.get('id')}: answer_letter={row.get('answer_letter')!r} with answer="
            f"{row.get('answer')!r} names no option. Give one of {sorted(choices or 'ABCD')}."
        )
    return letter


def score_row(row: Row) -> Score:
    """Score one row with the keys of predictions.jsonl; InputError where the truth is unusable."""
    kind, prediction = kind_of(row), _text(row.get("prediction"))
    empty = not (prediction or "").strip()
    if kind == "choice":
        letter = gold_letter(row)
        parsed = metrics.parse_letter(prediction, row.get("choices"))
        texts = {k.upper(): v for k, v in (row.get("choices") or {}).items()}
        gold = metrics.normalize_text(texts.get(letter)) or letter
        return Score("choice", gold, parsed, parsed == letter, None, empty)
    answer = _text(row.get("answer"))
    if kind == "number":
        number = metrics.parse_number(prediction)
        mra = metrics.mean_relative_accuracy(number, _target(row))
        return Score("number", metrics.normalize_text(answer), number, None, mra, empty)
    if answer is None:
        raise InputError(
            f"question {row.get('id')} has no answer to compare with. Give the record an answer."
        )
    parsed = metrics.normalize_text(prediction) or None
    correct, rouge1 = (
        metrics.exact_match(prediction, answer),
        metrics.rouge1_one(prediction, answer),
    )
    return Score("text", metrics.normalize_text(answer), parsed, correct, None, empty, rouge1)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _target(row: Row) -> float:
    try:
        target = float(row["value"])
    except (TypeError, ValueError):
        target = float("nan")
    if not np.isfinite(target):
        raise InputError(
            f"question {row.get('id')}: value {row['value']!r} is not a finite number. "
            "Correct the record, or leave value out to score the answer as text."
        )
    return target


def summarize_group(rows: Sequence[Row], scores: Sequence[Score]) -> dict[str, Any]:
    """Metrics of a set of questions; None for a metric that no question in it has."""
    judged = [s for s in scores if s.correct is not None]
    numbers = [s.mra for s in scores if s.mra is not None]
    texts = [(r, s) for r, s in zip(rows, scores, strict=True) if s.kind == "text"]
    predictions = [_text(r.get("prediction")) for r, _ in texts]
    references = [str(r["answer"]) for r, _ in texts]
    correct = [bool(s.correct) for s in judged]
    return {
        "n": len(scores),
        "score": float(np.mean([s.value for s in scores])) if scores else None,
        "accuracy": metrics.accuracy(correct),
        "balanced_accuracy": metrics.balanced_accuracy(correct, [s.gold for s in judged]),
        "n_judged": len(judged),
        "mra": float(np.mean(numbers)) if numbers else None,
        "n_numbers": len(numbers),
        "bleu1": metrics.bleu1(predictions, references),
        "rouge1": float(np.mean([s.rouge1 for _, s in texts])) if texts else None,
        "n_text": len(texts),
        "n_empty": sum(s.empty for s in scores),
    }


def subtask_names(rows: Iterable[Row]) -> list[str]:
    """Each row's subtask; "task/subtask" where two tasks share the name; "all" without any."""
    rows = list(rows)
    tasks_of: dict[str, set[str]] = {}
    for row in rows:
        tasks_of.setdefault(str(row.get("subtask")), set()).add(str(row.get("task")))
    names = []
    for row in rows:
        task, subtask = row.get("task"), row.get("subtask")
        if subtask is None:
            names.append(str(task) if task is not None else "all")
        else:
            shared = len(tasks_of[str(subtask)]) > 1
            names.append(f"{task}/{subtask}" if shared else str(subtask))
    return names


def macro_mean(groups: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Unweighted mean of each metric over the groups that have it."""
    groups = list(groups)
    out: dict[str, float | None] = {}
    for key in MACRO_KEYS:
        values = [g[key] for g in groups if g.get(key) is not None]
        out[key] = float(np.mean(values)) if values else None
    return out


def score_rows(rows: Iterable[Row]) -> list[Score]:
    """Score every row; InputError for the first whose truth is unusable."""
    return [score_row(row) for row in rows]


def summarize(rows: Sequence[Row], scores: Sequence[Score] | None = None) -> dict[str, Any]:
    """overall, macro, subtasks and tasks of prediction rows.

    `macro` is the mean over subtasks; `macro.tasks` the mean over tasks of each task's own mean
    over its subtasks (3D-RAD's convention). `overall` counts each question once. `tasks` is empty
    where no row names a task. scores: those of `score_rows`, where they are at hand.
    """
    scores = score_rows(rows) if scores is None else scores
    names = subtask_names(rows)
    of_subtask: dict[str, list[int]] = {}
    of_task: dict[str, list[int]] = {}
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        of_subtask.setdefault(name, []).append(i)
        if row.get("task") is not None:
            of_task.setdefault(str(row["task"]), []).append(i)

    def pick(chosen: Sequence[int]) -> dict[str, Any]:
        return summarize_group([rows[i] for i in chosen], [scores[i] for i in chosen])

    subtasks = {name: pick(of_subtask[name]) for name in sorted(of_subtask)}
    tasks = {name: pick(of_task[name]) for name in sorted(of_task)}
    for name, members in of_task.items():
        own = sorted({names[i] for i in members})
        tasks[name]["macro"] = macro_mean(subtasks[n] for n in own)
    macro: dict[str, Any] = macro_mean(subtasks.values())
    macro["n_subtasks"] = len(subtasks)
    if tasks:
        macro["tasks"] = {**macro_mean(t["macro"] for t in tasks.values()), "n_tasks": len(tasks)}
    return {
        "overall": summarize_group(rows, scores),
        "macro": macro,
        "subtasks": subtasks,
        "tasks": tasks,
    }
