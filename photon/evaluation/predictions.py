"""predictions.jsonl: one line per answered question; nothing is lost and nothing answered twice.

A line has the keys of `prediction_row`. A run that was cut off is continued: `PredictionWriter`
reads what is there, drops a half-written last line with a warning, and tells which questions are
done.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from photon.errors import InputError
from photon.evaluation.metrics import normalize_text
from photon.files import write_text

RECORD_KEYS = (
    "id volume patient task subtask question_type question answer choices answer_letter "
    "value unit organ"
).split()
# Of a foreign file; the first found counts.
ANSWER_KEYS = ("prediction", "pred_answer", "response", "answer")
LABEL_KEYS = ("labels", "label", "solution", "correct_answer", "reference", "gold")
ID_KEYS = ("id", "question_id", "qid")


def prediction_row(
    record: Any,
    prediction: str | None,
    condition: str = "photon",
    kept_tokens: int | None = None,
    visual_tokens: int | None = None,
    coverage: float | None = None,
    theta: float | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """One line of predictions.jsonl from a record (photon.questions.record.Record) and its answer.

    coverage: share of the evidence organ's tokens that were kept; None without a mask. `extra` keys
    are appended as they are.
    """
    row = {key: getattr(record, key, None) for key in RECORD_KEYS}
    row.update(
        prediction=prediction,
        condition=condition,
        kept_tokens=kept_tokens,
        visual_tokens=visual_tokens,
        coverage=coverage,
        theta=theta,
    )
    return {**row, **extra}


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """All lines of a JSONL file as dictionaries; blank lines are passed over.

    A last line without a line break that is not complete JSON (a killed run) is left out with a
    warning; any other bad line is an InputError that names file and line.
    """
    return [row for _, row in _numbered_lines(Path(path))[0]]


def _numbered_lines(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], int]:
    """(line number, row) of each line, and the number of bytes up to the last good line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Check the path of the predictions."
        ) from error
    rows, good = [], 0
    lines = data.split(b"\n")
    for number, raw in enumerate(lines, start=1):
        torn_allowed = number == len(lines)  # what follows the last line break
        text = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if text.strip():
            try:
                row = json.loads(text.decode("utf-8"))
                if not isinstance(row, dict):
                    raise ValueError(f"expected a JSON object, found {type(row).__name__}")
            except ValueError as error:
                if not torn_allowed:
                    raise InputError(
                        f"{path}:{number}: not a line of predictions ({error}). "
                        "Correct or delete this line."
                    ) from error
                warnings.warn(
                    f"{path}:{number}: the last line is incomplete (a run was cut off); dropped",
                    stacklevel=3,
                )
                break
            rows.append((number, row))
        good += len(raw) + (0 if torn_allowed else 1)
    return rows, good


class PredictionWriter:
    """Append-only JSONL file of one run and one condition; use as a context manager.

    path: created with its folder, or continued. fingerprint: anything JSON that identifies what
    answers (weights, data, settings); it is stored in PATH.fingerprint.json, and continuing a file
    that was begun with another one is an InputError rather than a mixture of two models.
    known: rows of the same run in other files (other ranks'), which count as answered.
    Each line is flushed as it is written, and synced to the disk when the writer closes.
    """

    def __init__(
        self, path: str | Path, fingerprint: Any = None, known: Sequence[Mapping] = ()
    ) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        check_fingerprint(self.path, fingerprint)
        write_fingerprint(self.path, fingerprint)
        if self.path.exists():
            numbered, good = _numbered_lines(self.path)
            _require_unique(self.path, numbered)
            self.rows = [row for _, row in numbered]
            _repair(self.path, good)
        self._done = {str(row.get("id")) for row in self.rows}
        for row in known:
            if not self.has(row["id"]):
                self.rows.append(dict(row))
                self._done.add(str(row["id"]))
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def has(self, question_id: str) -> bool:
        """Whether this question is answered already."""
        return str(question_id) in self._done

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one answer; ValueError for a question that has one."""
        key = str(row["id"])
        if key in self._done:
            raise ValueError(f"question {key} is answered already in {self.path}")
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()
        self._done.add(key)
        self.rows.append(json.loads(line))

    def close(self) -> None:
        """Sync to the disk and close; a second call does nothing."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _fingerprint_of(path: Path) -> Path:
    return path.with_name(path.name + ".fingerprint.json")


def check_fingerprint(path: Path, fingerprint: Any) -> None:
    """InputError if `path` holds answers that were begun with another fingerprint."""
    side = _fingerprint_of(path)
    begun = path.exists() and path.stat().st_size > 0
    if fingerprint is None or not begun or not side.exists():
        return
    if side.read_text(encoding="utf-8") != json.dumps(
        fingerprint, sort_keys=True, ensure_ascii=False
    ):
        raise InputError(
            f"{path} holds answers of another model, data set or setting. "
            "Give another output directory, or delete this file to answer anew."
        )


def write_fingerprint(path: Path, fingerprint: Any) -> None:
    """Store what answers beside the file; nothing for None."""
    if fingerprint is not None:
        text = json.dumps(fingerprint, sort_keys=True, ensure_ascii=False)
        write_text(_fingerprint_of(path), text)


def _repair(path: Path, good: int) -> None:
    """Cut a torn last line off; complete the line break of a whole one."""
    with path.open("r+b") as file:
        file.truncate(good)
        if good:
            file.seek(good - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")


def _require_unique(path: Path, numbered: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    first: dict[str, int] = {}
    for number, row in numbered:
        key = str(row.get("id"))
        if row.get("id") is not None and first.setdefault(key, number) != number:
            raise InputError(
                f"{path}:{number}: question {key} is answered already in line {first[key]}. "
                "Keep one of the two lines."
            )


def join_predictions(path: str | Path, records: Sequence[Any]) -> list[dict[str, Any]]:
    """Prediction rows from any model's file of answers and the data set's records, in their order.

    A JSONL file, or a .json file with a list of objects or {id: answer or object}. Each object
    holds the answer under one of ANSWER_KEYS (the first that is there). If the objects have an id
    (ID_KEYS), they are joined by it: an unknown or double id is an InputError, and a record without
    an answer counts as an empty one, with a warning. What stands behind the last "/" of a record's
    id will do where it is unique, as benchmarks know no splits. Without ids, line i answers record
    i and the counts must be equal. Token counts and the like are taken over where given.
    """
    path = Path(path)
    numbered = _foreign_rows(path)
    answers = [(number, row, _answer_of(path, number, row)) for number, row in numbered]
    with_id = [row.get("id") is not None for _, row, _ in answers]
    if answers and all(with_id):
        pairs = _join_by_id(path, answers, records)
    elif any(with_id):
        number = answers[with_id.index(False)][0]
        raise InputError(f"{path}:{number}: no id, but other lines have one. Give all lines an id.")
    elif len(answers) != len(records):
        raise InputError(
            f"{path}: {len(answers)} answers without ids for {len(records)} questions. "
            "Give each line the id of its question, or one line per question in order."
        )
    else:
        _require_labels(path, numbered, records)
        pairs = [(row, text) for _, row, text in answers]
    absent = sum(1 for row, _ in pairs if not row)
    if absent:
        warnings.warn(
            f"{path}: {absent} of {len(records)} questions have no answer; they count as wrong",
            stacklevel=2,
        )
    taken = ("kept_tokens", "visual_tokens", "coverage", "theta")
    extra = ("kept_mask", "organ_tokens", "cot_reasoning")
    return [
        prediction_row(
            record,
            text,
            row.get("condition", "file"),
            *(row.get(k) for k in taken),
            **{k: row[k] for k in extra if k in row},
        )
        for record, (row, text) in zip(records, pairs, strict=True)
    ]


def _foreign_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line or place, object) of each answer in any accepted layout, with `id` filled in."""
    if path.suffix.lower() != ".json":
        numbered = _numbered_lines(path)[0]
    else:
        try:
            content = json.loads(path.read_bytes().decode("utf-8-sig"))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}). Check the path."
            ) from error
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error}). Give a list or an object.") from error
        if isinstance(content, dict):
            content = [
                {**(v if isinstance(v, dict) else {"prediction": v}), "id": key}
                for key, v in content.items()
            ]
        if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
            raise InputError(f"{path}: must hold a list of objects, or answers by id.")
        numbered = list(enumerate(content, start=1))
    out = []
    for number, row in numbered:
        key = next((k for k in ID_KEYS if row.get(k) is not None), None)
        out.append((number, row if key is None else {**row, "id": row[key]}))
    return out


def _join_by_id(
    path: Path, answers: Sequence[tuple[int, Mapping[str, Any], str | None]], records: Sequence[Any]
) -> list[tuple[Mapping[str, Any], str | None]]:
    """(row, answer) for each record; ({}, None) where the file has none."""
    tails: dict[str, list[str]] = {}
    for record in records:
        tails.setdefault(str(record.id).rsplit("/", 1)[-1], []).append(str(record.id))
    known = {tail: ids[0] for tail, ids in tails.items() if len(ids) == 1}
    known |= {str(record.id): str(record.id) for record in records}
    by_id: dict[str, tuple[Mapping[str, Any], str | None]] = {}
    first: dict[str, int] = {}
    for number, row, text in answers:
        key = known.get(str(row["id"]))
        if key is None:
            raise InputError(
                f"{path}:{number}: question {row['id']} is not in the data set. "
                "Score the file against the questions it was made from."
            )
        if key in by_id:
            raise InputError(
                f"{path}:{number}: question {row['id']} is answered already in line {first[key]}. "
                "Keep one of the two lines."
            )
        by_id[key], first[key] = (row, text), number
    return [by_id.get(str(record.id), ({}, None)) for record in records]


def _require_labels(path: Path, numbered: Sequence[tuple[int, Mapping]], records: Sequence) -> None:
    """InputError where a line without an id says a true answer that is not its record's."""
    for (number, row), record in zip(numbered, records, strict=True):
        label = next((row[key] for key in LABEL_KEYS if row.get(key) is not None), None)
        letter = str(getattr(record, "answer_letter", None) or "").upper()
        choice = (getattr(record, "choices", None) or {}).get(letter, "")
        known = {str(record.answer), letter, choice, f"{letter}. {choice}"} - {""}
        if label is not None and normalize_text(str(label)) not in map(normalize_text, known):
            raise InputError(
                f"{path}:{number}: says that the answer to question {record.id} is {label!r}, and "
                f"the data set {record.answer!r}. The lines are in another order: give them ids."
            )


def _answer_of(path: Path, number: int, row: Mapping[str, Any]) -> str | None:
    for key in ANSWER_KEYS:
        if key in row:
            value = row[key]
            if value is None or isinstance(value, str):
                return value
            if isinstance(value, int | float) and not isinstance(value, bool):
                return str(value)
            raise InputError(
                f"{path}:{number}: {key} is {type(value).__name__}, not text. Write it as a string."
            )
    raise InputError(
        f"{path}:{number}: no answer. Give the line one of the keys {', '.join(ANSWER_KEYS)}."
    )
