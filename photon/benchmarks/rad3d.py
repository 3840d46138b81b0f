"""3D-RAD: 92 CSV files of questions about CT-RATE's chest CTs (arXiv 2506.11147).

The paper: Tables 1, 11 and 12.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd

from photon.benchmarks import scans
from photon.benchmarks.benchmark import (
    BadRow,
    Facts,
    Kind,
    PaperTable,
    Reading,
    choice_fields,
    letter_of,
    need,
)
from photon.benchmarks.judging import (
    Bert,
    Judged,
    Scored,
    answer_of,
    by_value,
    is_choice,
    option_texts,
    strict_choice,
    text_of,
)
from photon.benchmarks.organs import add_organs
from photon.benchmarks.rows import Row, squash
from photon.evaluation.intervals import mean_of, measure_of
from photon.evaluation.metrics import rouge1_one
from photon.evaluation.scores import gold_letter
from photon.evaluation.text_metrics import bleu1_counts, bleu1_of
from photon.questions.record import Record

# Folder -> (task as in the paper's Table 1, published subtask files of train and test).
_LETTERS = {"train": (*"cdefghijk", "n", "o", "q"), "test": tuple("bcdefgh")}
_ABNORMALITY = ("Abnormality_feature", "Abnormality_position", "Abnormality_type", "Diagnosis")
FOLDERS: dict[str, tuple[str, dict[str, tuple[str, ...]] | tuple[str, ...]]] = {
    "Task1_Image_Observation": (
        "image_observation", ("Anatomical_observation", "Pathological_observation")),
    "Task2_Anomaly_Detection": ("anomaly_detection", _ABNORMALITY),
    "Task3_Medical_Computation": ("medical_measurement", ("Diameter", "Size", "Thickness")),
    "Task4_Existence_Detection": ("existence_detection", scans.FINDINGS),
    "Task5_Static_Temporal_Diagnosis": ("static_temporal_diagnosis", _LETTERS),
    "Task6_Longitudinal_Temporal_Diagnosis": ("longitudinal_temporal_diagnosis", _LETTERS),
}  # fmt: skip
COLUMNS = tuple(
    map(squash, "Task,Subtask,VolumeName,Question,Answer,QuestionType,AnswerChoice".split(","))
) + tuple(f"choice{letter}" for letter in "abcd")
_KEPT = [(name, squash(name)) for name in ("Task", "Subtask", "QuestionType", "VolumeName")]
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
NO_ENCODER = "BERT Score: not computed, as evaluation.bert_encoder names no encoder"


@dataclass(frozen=True)
class Rad3D(scans.OnCtRate):
    """Open and closed questions of six tasks; a number is the unweighted mean over the subtasks.

    Closed questions: `official` wants "B." somewhere in the answer (3D-RAD's evaluation, which also
    accepts an answer that names several letters), `paper` equality with the supervised answer up to
    case and white space (the paper's scripts), `strict` the right option and no other, by letter or
    by text. Existence detection is scored by accuracy throughout, as the paper reports it; the
    published `evaluate_result.py` sends it to the text metrics.

    Args:
        files: folder of the repository, with or without its 3DRAD/ below.
        volumes: folder of CT-RATE; test_N_x_y of the questions is its valid_N_x_y.
    """

    files: str = "3D-RAD"
    facts: ClassVar[Facts] = Facts(
        name="rad3d",
        title="3D-RAD",
        licence="MIT (code), Apache-2.0 (questions); CT-RATE below them is CC BY-NC-SA 4.0",
        source="github.com/Tang-xiaoxiao/3D-RAD",
        layout="3D-RAD/3DRAD/{train,test}/TaskN_*/SUBTASK.csv beside "
        "CT-RATE/dataset/{train,valid}_fixed/",
        counts={"train questions": 136_195, "test questions": 33_910},
    )

    protocols = ("official", "paper", "strict")
    tables = (
        PaperTable(1, "3D-RAD", models_in_rows=False),
        PaperTable(11, "Retained lung tokens by task, and dissimilarity of organs", False, True),
        PaperTable(12, "Lung coverage on lung questions of 3D-RAD", tokens=True),
    )
    differences = (
        'Closed questions: official wants "B." anywhere in the answer, paper the supervised answer '
        "itself up to case and white space, strict the right option and no other, by letter or "
        "text. Open questions: official leaves empty answers out, as its script does, and paper "
        'reads them as "nan"; both take the median of resamples of ROUGE-1. strict takes an empty '
        "answer as empty, and the mean of ROUGE-1."
    )

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        top = self.path(self.files, "3DRAD", split)
        top = top if top.is_dir() else self.path(self.files, split)
        if not top.is_dir():
            return
        for folder, (task, subtasks) in FOLDERS.items():
            names = subtasks[split] if isinstance(subtasks, dict) else subtasks
            present = {path.stem: path for path in (top / folder).glob("*.csv")}
            for name in sorted(set(names) - set(present)):
                reading.note("file", str(top / folder / f"{name}.csv"), "is absent; fetch it")
            for name in sorted(present):
                make = partial(self._record, f"{split}/{folder}/{name}", folder, task, name)
                reading.table(present[name], COLUMNS, make)

    def _record(
        self, prefix: str, folder: str, task: str, subtask: str, row: Row, line: int
    ) -> Record:
        if row["task"].strip() != folder[4]:
            raise BadRow("row", f"task {row['task']!r} stands in {folder}; put it where it belongs")
        name = need(row, "volumename", "VolumeName")
        volume = scans.ct_rate_path(name, self.volumes, self.scans)
        question, answer = need(row, "question"), need(row, "answer")
        kind = need(row, "questiontype", "QuestionType").lower()
        if kind in ("close", "closed"):
            fields = self._closed(question, answer, row)
        elif kind == "open":
            fields = {"question": question, "answer": answer}
        else:
            raise BadRow("row", f"QuestionType {row['questiontype']!r} is neither Open nor Close")
        return Record(
            id=f"{prefix}:{line}",
            volume=volume,
            patient=scans.ct_rate_patient(name),
            task=task,
            subtask=subtask,
            extra={name: row[key] for name, key in _KEPT},
            **fields,
        )

    def _closed(self, question: str, answer: str, row: Row) -> dict[str, object]:
        cells = {letter: row[f"choice{letter.lower()}"].strip() for letter in "ABCD"}
        choices = {letter: text for letter, text in cells.items() if text not in ("", "-")}
        if len(choices) < 2:
            raise BadRow("choice", "a closed question has fewer than two options; write them")
        letter = letter_of(row["answerchoice"], choices)
        if choices[letter] != answer:
            raise BadRow("choice", f"answer {answer!r} is not the text of option {letter}")
        fields = choice_fields(question, choices, letter)
        if self.prompt == "official":  # its code prints all four columns, "-" included
            options = " ".join(f"{key}. {text or '-'}" for key, text in cells.items())
            fields["question"] = f"{question}\nChoices: {options}\nAnswer:"
            fields["answer"] = f"{letter}. {answer}"
        return fields

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
                scored.closed(task, [judge(r, protocol) for r in closed], group_of=subtask_of)
            if protocol == "official":  # its script drops them
                answered = [r for r in opened if text_of(r).strip()]
                if len(answered) < len(opened):
                    count = f"{len(opened) - len(answered)} of {len(opened)}"
                    scored.notes.append(f"{task}: {count} empty answers left out (official)")
                opened = answered
            if opened:
                add_text(scored, task, opened, protocol != "strict", bert)
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


def subtask_of(row: Row) -> str:
    return str(row.get("subtask"))


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


def add_text(
    scored: Scored, group: str, rows: Sequence[Row], published: bool, bert: Bert | None
) -> None:
    """Add BLEU, ROUGE and BERT Score of open questions to `scored`, means over the subtasks.

    published: as the scripts of 3D-RAD and of the paper do it. Answers pass through a CSV file that
    pandas reads (an empty answer and "None" come back as "nan"), and ROUGE-1 is the median of 1,000
    random resamples (theirs are not seeded). Otherwise an empty answer is empty, and ROUGE-1 is the
    plain mean.
    """
    predictions, references = [text_of(r) for r in rows], [answer_of(r) for r in rows]
    groups = [subtask_of(row) for row in rows]
    if published:
        predictions, references = through_csv(predictions, references, groups)
    predictions = [text.strip() for text in predictions]
    references = [text.strip() for text in references]
    pairs = list(zip(predictions, references, strict=True))
    counts = np.array([bleu1_counts(*pair) for pair in pairs], dtype=np.float64)
    rouge = [rouge1_one(*pair) for pair in pairs]
    centre = "median" if published else "value"
    scored.measures[group, "BLEU"] = measure_of(rows, counts, groups, combine=bleu1_of)
    scored.measures[group, "ROUGE"] = mean_of(rows, rouge, groups, centre=centre)
    if bert is None:
        scored.measures[group, "BERT Score"] = None
        if NO_ENCODER not in scored.notes:
            scored.notes.append(NO_ENCODER)
    else:
        scored.measures[group, "BERT Score"] = mean_of(rows, bert(predictions, references), groups)


def through_csv(
    predictions: Sequence[str], references: Sequence[str], groups: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Both columns as they are after a CSV file of each group was written and read by pandas."""
    own, true = list(predictions), list(references)
    for name in dict.fromkeys(groups):
        rows = [i for i, group in enumerate(groups) if group == name]
        file = io.StringIO(newline="")
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["Pred", "Answer"])
        writer.writerows([predictions[i].strip(), references[i].strip()] for i in rows)
        file.seek(0)
        frame = pd.read_csv(file)
        for i, pred, answer in zip(rows, frame["Pred"], frame["Answer"], strict=True):
            own[i], true[i] = str(pred), str(answer)
    return own, true
