"""3D-RAD: accuracy of three closed tasks and text metrics of three open ones (Tables 1, 11, 12)."""

from __future__ import annotations

from collections.abc import Sequence

from photon.benchmarks.organs import add_organs
from photon.benchmarks.protocol import (
    Benchmark,
    Bert,
    Judged,
    Row,
    Scored,
    answer_of,
    by_value,
    is_choice,
    option_texts,
    strict_choice,
    text_of,
)
from photon.benchmarks.tables import squash
from photon.benchmarks.text import add_text
from photon.evaluation.protocols import gold_letter

# A part of the task's name, whoever spells it -> the row of Table 1, in its order.
TASKS = {
    "existencedetection": "Existence Detection",
    "statictemporal": "Stat. Temp. Diag.",
    "longitudinaltemporal": "Longit. Temp. Diag.",
    "medicalmeasurement": "Medical Measurement",
    "medicalcomputation": "Medical Measurement",  # the name in the published files
    "imageobservation": "Image Observation",
    "anomalydetection": "Anomaly Detection",
}


class Rad3D(Benchmark):
    """Every number is an unweighted mean over the subtasks of its task.

    Closed questions: `official` wants "B." somewhere in the answer (3D-RAD's evaluation, which also
    accepts an answer that names several letters), `paper` equality with the supervised answer up to
    case and white space (the paper's scripts), `strict` the right option and no other, by letter or
    by text. Existence detection is scored by accuracy throughout, as the paper reports it; the
    published `evaluate_result.py` sends it to the text metrics.
    """

    name = "rad3d"
    protocols = ("official", "paper", "strict")
    tables = (1, 11, 12)
    differences = (
        'Closed questions: official wants "B." anywhere in the answer, paper the supervised answer '
        "itself up to case and white space, strict the right option and no other, by letter or "
        'text. Open questions: official and paper read an empty answer as "nan" and take the '
        "median of resamples of ROUGE-1; strict takes it as empty, and the mean."
    )

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        scored = Scored()
        by_task: dict[str, list[Row]] = {}
        for row in rows:
            by_task.setdefault(task_of(row), []).append(row)
        for task in dict.fromkeys([*TASKS.values(), *sorted(by_task)]):
            members = by_task.get(task, [])
            closed = [r for r in members if is_choice(r)]
            opened = [r for r in members if not is_choice(r)]
            if closed:
                judged = [judge(r, protocol) for r in closed]
                names = [str(r.get("subtask")) for r in closed]
                scored.closed(task, closed, judged, groups=names)
            if opened:
                names = [str(r.get("subtask")) for r in opened]
                add_text(scored, task, opened, names, protocol != "strict", bert)
            scored.tokens(task, members)
        add_organs(scored, rows, [task_of(row) for row in rows])
        return scored

    def choice_text(self, row: Row, letter: str, protocol: str) -> str:
        if protocol == "official":
            return f"{letter}. {(row.get('choices') or {}).get(letter, '')}".strip()
        return super().choice_text(row, letter, protocol)


def task_of(row: Row) -> str:
    """The row of Table 1 that a question belongs to; its own task's name where it has none."""
    name = squash(str(row.get("task")))
    return next((title for part, title in TASKS.items() if part in name), str(row.get("task")))


def judge(row: Row, protocol: str) -> Judged:
    """A closed question under one of the protocols (see `Rad3D`)."""
    if protocol == "strict":
        return strict_choice(row)
    if protocol == "official":
        return by_value(row, f"{gold_letter(row)}." in text_of(row))
    return by_value(row, _plain(text_of(row)) == _plain(answer_of(row) or _letter_text(row)))


def _letter_text(row: Row) -> str:
    return option_texts(row).get(gold_letter(row), "")


def _plain(text: str) -> str:
    return " ".join(text.split()).lower()
