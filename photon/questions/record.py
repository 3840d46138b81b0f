"""Question records: JSON lines in the ms-swift layout, read leniently and written canonically.

Reading follows ms-swift's aliases and tag rules (docs/questions.md lists them); everything that a
row holds beyond our own keys is kept in `Record.extra` and written back.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from photon.errors import InputError
from photon.files import replacing
from photon.questions.swift import Conversation, normalise_row
from photon.volume.sources import Located, Source, absent, is_image_name, label, locate

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
QUESTION_TYPES = ("free", "choice")
_OWN_TEXT = ("id", "patient", "task", "subtask", "question_type", "organ", "unit")


@dataclass(frozen=True)
class Record:
    """One question about one volume, image or video, or about several in the order of their tags.

    `question` is the text shown to the model, without the volume tag and with the options of a
    choice question; `answer` is the supervised text (the letter of a choice question).  `volume`
    and `labels` are paths as written in the file, `more_volumes` and `more_labels` those of further
    volumes.  What a path holds (a volume, an image or a video) is told by the file, see
    `photon.volume.sources`; a tuple of paths is the frames of one video.  `evidence`: ids in
    the label maps that the answer was computed from.  `history`: earlier (question, answer) turns.
    `extra`: the row's other keys.
    """

    id: str
    volume: Source
    question: str
    answer: str | None = None
    system: str | None = None
    patient: str | None = None
    task: str | None = None
    subtask: str | None = None
    question_type: str = "free"
    choices: dict[str, str] | None = None
    answer_letter: str | None = None
    labels: str | None = None
    evidence: tuple[int, ...] = ()
    organ: str | None = None
    value: float | None = None
    unit: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    more_volumes: tuple[Source, ...] = ()
    more_labels: tuple[str, ...] = ()
    extra: dict = field(default_factory=dict)

    @property
    def volumes(self) -> tuple[Source, ...]:
        """All volumes, images and videos that the question is about."""
        return (self.volume, *self.more_volumes)

    @property
    def label_maps(self) -> tuple[str | None, ...]:
        """The label map of each volume, or None."""
        if self.more_labels or not self.more_volumes:
            return (self.labels, *self.more_labels)
        return (None,) * len(self.volumes)

    def to_row(self) -> dict:
        """The canonical JSON row; keys without a value are left out."""
        kinds = ["image" if is_image_name(source) else "video" for source in self.volumes]
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for index, (question, answer) in enumerate((*self.history, (self.question, self.answer))):
            tag = "".join(f"<{kind}>" for kind in kinds) if index == 0 else ""
            messages.append({"role": "user", "content": tag + question})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        row: dict = {"messages": messages}
        for source, kind in zip(self.volumes, kinds, strict=True):
            row.setdefault(f"{kind}s", []).append(source)
        for key in (*_OWN_TEXT, "choices", "answer_letter", "value"):
            if getattr(self, key) is not None:
                row[key] = getattr(self, key)
        if self.labels is not None:
            row["labels"] = list(self.label_maps) if self.more_labels else self.labels
        if self.evidence:
            row["evidence"] = list(self.evidence)
        return {**row, **self.extra}


def choice_text(question: str, choices: dict[str, str]) -> str:
    """The text of a choice question as the model sees it."""
    options = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
    return f"{question}\n{options}\nAnswer with the letter."


def read_records(
    path: str | Path, root: str | Path | None = None, strict: bool = False
) -> tuple[list[Record], list[str]]:
    """Read a .jsonl (or a .json list) file into (records, problems).

    A bad row is left out and described as "FILE:LINE: what is wrong; what to do".  With `root`,
    paths are resolved against it and a volume that is absent there is a problem.  `strict`: raise
    InputError naming the problems instead of returning them.  Raises InputError when the file
    cannot be read.
    """
    path = Path(path)
    records: list[Record] = []
    problems: list[str] = []
    seen: dict[str, str] = {}
    moved: list[str] = []
    present: dict[Located, bool] = {}
    for where, row in _rows(path, problems):
        try:
            _check_text(row)
            record, tag_moved = _to_record(row, where, path)
            if record.id in seen:
                raise InputError(f"id {record.id!r} was used at {seen[record.id]}; make ids unique")
            for name in record.volumes if root is not None else ():
                if not _present(locate(root, name), present):
                    raise InputError(f"no volume {name!r} under {root}; fix the path or root")
        except InputError as error:
            problems.append(f"{where}: {error}")
            continue
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            problems.append(f"{where}: a value has the wrong type or range ({error}); correct it")
            continue
        seen[record.id] = where
        if tag_moved:
            moved.append(where)
        records.append(record)
    if moved:
        warnings.warn(
            f"{path}: the volume tag stood after the question in {len(moved)} rows (first: "
            f"{moved[0]}); it is read as standing in front, where pruning needs it",
            stacklevel=2,
        )
    if strict and not records and not problems:
        raise InputError(f"{path}: holds no question; write one JSON object a line")
    if strict and problems:
        shown = "\n".join(problems[:20])
        more = f"\n... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise InputError(f"{len(problems)} bad rows in {path}:\n{shown}{more}")
    return records, problems


def write_records(path: str | Path, records: Iterable[Record | dict]) -> int:
    """Write one canonical row per record, whole or not at all; returns the count."""
    count = 0
    with replacing(path) as new, open(new, "w", encoding="utf-8", newline="\n") as stream:
        for record in records:
            row = record if isinstance(record, dict) else record.to_row()
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _check_text(row: dict) -> None:
    """Raise InputError for text that is none: half of a surrogate pair."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        fault = ascii(error.object[error.start : error.end])
        raise InputError(f"holds {fault}, half a character; write it as UTF-8") from None
    except RecursionError:
        raise InputError("is nested too deep; write a flat object") from None


def _present(source: Located, known: dict[Located, bool]) -> bool:
    if source not in known:
        known[source] = absent(source) is None
    return known[source]


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[str, dict]]:
    """Yield ("FILE:LINE", row); unreadable lines become problems. A BOM and CRLF are tolerated."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read {path}: {reason}; give the path of a .jsonl file") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error
    if path.suffix == ".json":
        yield from _json_list(path, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(
                f"{where}: not valid JSON ({_json_fault(error)}); each line must be one whole JSON "
                "object"
            )
            continue
        if not isinstance(row, dict):
            problems.append(f"{where}: holds a {type(row).__name__}; write one JSON object a line")
            continue
        yield where, row


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deep" if isinstance(error, RecursionError) else "a number is too long"


def _json_list(path: Path, text: str) -> Iterator[tuple[str, dict]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{path}{line}: not valid JSON ({_json_fault(error)}); fix it") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: must hold a JSON list of objects; one object per question")
    for number, row in enumerate(rows, start=1):
        yield f"{path}[{number}]", row


def _to_record(row: dict, where: str, path: Path) -> tuple[Record, bool]:
    chat: Conversation = normalise_row(row)
    rest = dict(chat.rest)
    own = {key: _text(rest.pop(key, None), key) for key in _OWN_TEXT}
    choices = _choices(rest.pop("choices", None))
    letter = _text(rest.pop("answer_letter", None), "answer_letter")
    answer = chat.answer.strip() if chat.answer is not None else None
    if choices and letter is None and answer in choices:
        letter = answer
    if letter is not None and (choices is None or letter not in choices):
        legal = ", ".join(choices) if choices else "none: the row has no choices"
        raise InputError(f"answer_letter {letter!r} is not among the choices ({legal}); correct it")
    own["question_type"] = own["question_type"] or ("choice" if choices else "free")
    if own["question_type"] not in QUESTION_TYPES:
        raise InputError(
            f"question_type {own['question_type']!r} is unknown; write one of "
            f"{', '.join(QUESTION_TYPES)}"
        )
    if own["question_type"] == "choice" and not choices:
        raise InputError("a choice question without choices; add them, or make it free")
    own["id"] = own["id"] or f"{path.stem}:{where[len(str(path)) :].strip(':[]')}"
    own["patient"] = own["patient"] or label(chat.volumes[0])
    labels = _labels(rest.pop("labels", None), len(chat.volumes))
    record = Record(
        volume=chat.volumes[0],
        more_volumes=chat.volumes[1:],
        labels=labels[0],
        more_labels=labels[1:],
        question=chat.question,
        answer=answer,
        system=chat.system,
        choices=choices,
        answer_letter=letter,
        evidence=_ids(rest.pop("evidence", None)),
        value=_number(rest.pop("value", None)),
        history=chat.history,
        extra=rest,
        **own,
    )
    return record, chat.tag_moved


def _text(value: object, key: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{key} must be text, not {type(value).__name__}; correct it")


def _labels(value: object, volumes: int) -> tuple:
    """One label map for each volume, or (None,) without any."""
    if value is None:
        return (None,)
    maps = value if isinstance(value, list) else [value]
    if len(maps) != volumes:
        raise InputError(f"labels names {len(maps)} maps for {volumes} volumes; give one for each")
    return tuple(_text(path, "labels") for path in maps)


def _number(value: object) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"value {value!r} is not a number; write it without its unit") from None


def _ids(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    if isinstance(value, list) and all(type(x) is int for x in value):
        return tuple(value)
    raise InputError(f"evidence {value!r} must be a list of label ids, such as [5]")


def _choices(value: object) -> dict[str, str] | None:
    if not value:
        return None
    if isinstance(value, list) and len(value) <= len(LETTERS):
        value = dict(zip(LETTERS, value, strict=False))
    if not isinstance(value, dict):
        raise InputError('choices must be an object such as {"A": "yes", "B": "no"} or a list')
    return {str(letter): str(text) for letter, text in value.items()}
