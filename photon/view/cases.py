"""The cases of a run: a question with what every condition answered to it and kept for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from photon.errors import InputError
from photon.evaluation.conditions import CONTROLS
from photon.evaluation.predictions import join_predictions, read_predictions
from photon.evaluation.scores import score_row
from photon.evaluation.table import TITLES
from photon.questions.label_names import display
from photon.questions.record import Record
from photon.volume.sources import kind_of, locate

Answers = Mapping[str, Mapping[str, Mapping[str, Any]]]


def read_answers(predictions: Path, records: Sequence[Record]) -> dict[str, dict[str, dict]]:
    """Rows by condition and question id: of `predictions`, and of controls/ beside it.

    A file of another model's answers is joined to the records, as for scoring it. Raises InputError
    where there are no predictions.
    """
    if not predictions.is_file():
        raise InputError(f"{predictions}: no such file. Give the folder of an evaluated run.")
    own = predictions.name == "predictions.jsonl"
    files = {"photon" if own else "file": predictions}
    beside = (predictions.parent / "controls").glob("*.jsonl")
    files |= {file.stem: file for file in sorted(beside, key=lambda f: _place(f.stem))}
    found = {}
    for name, file in files.items():
        rows = read_predictions(file) if own else join_predictions(file, records)
        found[name] = {str(row["id"]): row for row in rows}
    return found


def _place(condition: str) -> tuple:
    """Controls in their usual order, then budgets by pruner and size."""
    if condition in CONTROLS:
        return (0, CONTROLS.index(condition), "")
    pruner, _, budget = condition.partition("@")
    return (1, float(budget) if budget.replace(".", "", 1).isdigit() else 0, pruner)


def title_of(condition: str) -> str:
    """A condition in words: "no pruning", "FastV at 10 %"."""
    pruner, _, budget = condition.partition("@")
    name = TITLES.get(pruner, pruner.replace("_", " "))
    if not budget:
        return name
    share = float(budget)
    return f"{name} at {share:.0%}" if share <= 1 else f"{name}, {share:.0f} tokens"


def case_of(record: Record, answers: Answers, grid: Sequence[int], flip: bool) -> dict[str, Any]:
    """What the page knows of a question; masks are of its last volume, on the grid as it is drawn.

    grid (d, h, w): of that volume's tokens. flip: the model saw the volume mirrored.
    """
    told = {name: rows[record.id] for name, rows in answers.items() if record.id in rows}
    own = next(iter(told.values()), {})
    return {
        "id": record.id,
        "patient": record.patient,
        "subtask": record.subtask or "all",
        "organ": record.organ and display(record.organ),
        "question": record.question,
        "answer": record.answer if record.choices is None else _choice(record),
        "evidence": list(record.evidence),
        "coverage": own.get("coverage"),
        "by": {name: answer_of(row, grid, flip) for name, row in told.items()},
    }


def _choice(record: Record) -> str:
    text = (record.choices or {}).get(record.answer_letter or "", "")
    return f"{record.answer_letter}. {text}" if text else str(record.answer)


def answer_of(row: Mapping[str, Any], grid: Sequence[int], flip: bool) -> dict[str, Any]:
    """One condition's answer: `right` is None for numbers, which have a `score` in [0, 1]."""
    score = score_row(row)
    return {
        "text": row.get("prediction") or "",
        "right": score.correct,
        "score": round(score.value, 3),
        "kept": row.get("kept_tokens"),
        "tokens": row.get("visual_tokens"),
        "mask": drawn_mask(row.get("kept_mask"), row.get("visual_tokens"), grid, flip),
        "scores": drawn_scores(row.get("token_scores"), grid, flip),
    }


def drawn_mask(
    packed: str | None, tokens: int | None, grid: Sequence[int], flip: bool
) -> str | None:
    """Hex of the bits of what was kept of the last volume; None where everything was."""
    n = int(np.prod(grid))
    if not packed or not tokens or tokens < n or not n:
        return None
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=tokens)[-n:]
    return np.packbits(_as_drawn(bits, grid, flip)).tobytes().hex()


def drawn_scores(packed: str | None, grid: Sequence[int], flip: bool) -> str | None:
    """Hex of a byte a token of the last volume."""
    n = int(np.prod(grid))
    values = np.frombuffer(bytes.fromhex(packed or ""), np.uint8)
    if len(values) < n or not n:
        return None
    return _as_drawn(values[-n:], grid, flip).tobytes().hex()


def _as_drawn(values: np.ndarray, grid: Sequence[int], flip: bool) -> np.ndarray:
    return values.reshape(grid)[..., ::-1].ravel() if flip else values


def volumes_of(records: Iterable[Record], root: Path) -> dict[str, tuple[Path, Path | None]]:
    """The last volume of each record, by its name in the record, with its label map, if any.

    Images and videos are left out: the page draws volumes.
    """
    found: dict[str, tuple[Path, Path | None]] = {}
    for record in records:
        source, labels = record.volumes[-1], record.label_maps[-1]
        if isinstance(source, str) and kind_of(locate(root, source)) == "volume":
            before = found.get(source, (None, None))[1]
            found[source] = locate(root, source), root / labels if labels else before
    return found
