"""The base of all published benchmarks: reading their files, and scoring answers to them.

A file of this package that defines a subclass of `Benchmark` is a benchmark (`registry`). Reading
turns files as their authors publish them into `Record`s. A bad row is left out, described as
"FILE:LINE: what is wrong; what to do" and counted by kind; it never stops the others.

Scoring turns prediction rows (photon.evaluation.predictions, with the keys of the record's `extra`
beside them) into measures that are keyed like the rows of the paper's tables. It does so under
several protocols: `official` (what the benchmark's repository computes), `paper` (what the scripts
of the paper compute, where that differs) and `strict` (what one should compute).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from photon.benchmarks.judging import Bert, Scored, in_style
from photon.benchmarks.rows import Row, TableError, place, read_table
from photon.errors import InputError
from photon.questions.record import Record, choice_text
from photon.volume.sources import Source, absent, locate
from photon.volume.types import ScanHeader

Kind = Literal["questions", "reports"]
Media = Literal["volume", "image", "frames", "video", "array"]
Prompt = Literal["paper", "official"]
Make = Callable[[Row, int], "Record | list[Record] | None"]

# Tokens of the chat format and ms-swift's tags; the first are escaped when a prompt is built.
_RESERVED = re.compile(r"<\|\w+\|>|</?tool_\w+>")
_TAG = re.compile(r"<(video|image|audio)>")


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper that a benchmark fills: paper/table_NUMBER.csv, cells as printed.

    models_in_rows: as the paper prints it; elsewhere a column is a model. tokens: it is about kept
    tokens, whatever the answers.
    """

    number: int
    title: str
    models_in_rows: bool = True
    tokens: bool = False


@dataclass(frozen=True)
class Facts:
    """What is known of a benchmark before its files are opened.

    counts: published rows, by "SPLIT KIND" of the reader's default settings.  media: what a row
    points to ("array": without spacing or HU).  kinds: what its records can serve as.  ct: all
    scans are CT, so that values which cannot be HU are refused.
    """

    name: str
    title: str
    licence: str
    source: str
    layout: str
    counts: Mapping[str, int]
    splits: tuple[str, ...] = ("train", "test")
    media: Media = "volume"
    kinds: tuple[Kind, ...] = ("questions",)
    ct: bool = True


class BadRow(InputError):
    """A row that makes no record; `kind` is what is counted."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class AbsentFiles(InputError):
    """A split none of whose published files is there."""


@dataclass(frozen=True)
class Finding:
    """Something about one row or file; `where` is "FILE:LINE" or a file."""

    kind: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass
class Reading:
    """Records of a split, the rows left out (`problems`), and what to know of kept ones (`notes`).

    `places` gives the "FILE:LINE" of each id; `files` are those that were read.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def problem(self, kind: str, where: str, message: str) -> None:
        self.problems.append(Finding(kind, where, message))

    def note(self, kind: str, where: str, message: str) -> None:
        self.notes.append(Finding(kind, where, message))

    def counts(self) -> dict[str, int]:
        """Problems by kind."""
        return dict(Counter(finding.kind for finding in self.problems))

    def table(
        self, path: Path, required: Iterable[str], make: Make, under: str = "questions"
    ) -> None:
        """Add what `make(row, line)` gives for every row of a file, if it is there; BadRow leaves
        a row out.

        Columns are named as `rows.squash` spells them; `under` as for `read_table`.
        """
        if not path.is_file():
            return
        self.files.append(path)
        where = place(path)
        try:
            for line, row in read_table(path, tuple(required), under):
                self.row(where.format(line), row, line, make)
        except TableError as error:
            self.problem(error.kind, error.where, str(error))

    def row(self, where: str, row: Row | TableError, line: int, make: Make) -> None:
        """Add what `make` gives for one row: a record, several, or none."""
        if isinstance(row, TableError):
            self.problem(row.kind, where, str(row))
            return
        try:
            made = make(row, line)
        except BadRow as error:
            self.problem(error.kind, where, str(error))
            return
        for record in [made] if isinstance(made, Record) else made or ():
            self.add(where, record)

    def add(self, where: str, record: Record) -> None:
        """Keep a record unless its id was used; special tokens in its text are noted."""
        if record.id in self.places:
            first = self.places[record.id]
            self.problem("duplicate_id", where, f"id {record.id!r} was used at {first}")
            return
        texts = (record.question, record.answer or "")
        if any("<" in text for text in texts):
            if found := [m.group() for text in texts for m in _RESERVED.finditer(text)]:
                self.note("special_token", where, f"{found[0]} in the text is read as plain text")
            if any(_TAG.search(text) for text in texts):
                self.note("special_token", where, "a media tag in the text is read as plain text")
                record = replace(
                    record, question=_plain(record.question), answer=_plain(record.answer)
                )
        self.places[record.id] = where
        self.records.append(record)

    def require(self, root: Path) -> None:
        """Leave out the records that name a file not under `root`; each is a problem."""
        known: dict[Source, str | None] = {}
        kept = []
        for record in self.records:
            for source in record.volumes:
                if source not in known:
                    known[source] = absent(locate(root, source))
            missing = [known[source] for source in record.volumes if known[source]]
            if missing:
                name = os.path.relpath(missing[0], root)
                message = f"no {name} under {root}; fetch it or correct the root"
                self.problem("missing_volume", self.places[record.id], message)
            else:
                kept.append(record)
        self.records = kept


def _plain(text: str | None) -> str | None:
    return _TAG.sub(r"< \1 >", text) if text else text


@dataclass(frozen=True)
class Benchmark:
    """One benchmark and its settings; `dataset.reader` of the configuration.

    A subclass gives `facts` and, where a row is a record, `columns`, `_files` and `_record`, else
    `_read`; one that is scored by its own rules gives `protocols`, `differences`, `score` and the
    tables of the paper that it fills as well.

    Args:
        root: folder that all paths are relative to, those in records too.
        prompt: paper: the published question with lettered options, answered by the letter;
            official: the wording and the target of the benchmark's own code (docs/benchmarks.md).
    """

    root: str = "data"
    prompt: Prompt = "paper"

    facts: ClassVar[Facts]
    columns: ClassVar[tuple[str, ...]] = ()  # that every row has, as `rows.squash` spells them
    protocols: ClassVar[tuple[str, ...]] = ()  # none: answers are scored as any data set's are
    differences: ClassVar[str] = ""  # between the protocols, in a sentence or two for the report
    tables: ClassVar[tuple[PaperTable, ...]] = ()

    def read(self, split: str, kind: Kind = "questions") -> Reading:
        """All rows of a split. Raises AbsentFiles, an InputError, where its files are not there."""
        if split not in self.facts.splits or kind not in self.facts.kinds:
            splits, kinds = ", ".join(self.facts.splits), ", ".join(self.facts.kinds)
            raise InputError(
                f"{self.facts.name} has no {split} {kind}: splits are {splits}, and kinds {kinds}"
            )
        reading = Reading()
        self._read(reading, split, kind)
        if not reading.files:
            raise AbsentFiles(
                f"no file of {self.facts.name} {split} {kind} under {Path(self.root)}. Its layout: "
                f"{self.facts.layout}. Set the reader's root and folders."
            )
        return reading

    def _read(self, reading: Reading, split: str, kind: Kind) -> None:
        """Add a split: a record of every row of its files, unless overridden."""
        for path in self._files(split):
            reading.table(path, self.columns, partial(self._record, split))

    def _files(self, split: str) -> Iterable[Path]:
        """Files of a split as published, there or not."""
        raise NotImplementedError

    def _record(self, split: str, row: Row, line: int) -> Record | None:
        """What a row says; None for one that the settings leave out, BadRow for a bad one."""
        raise NotImplementedError

    def expected(self, split: str, kind: Kind = "questions") -> int | None:
        """Published number of records under these settings; None where it is not known."""
        return self.facts.counts.get(f"{split} {kind}")

    def unpack(self) -> None:
        """Write out the images that the published tables hold, where records name them.

        Nothing for most; what is there stays. Raises InputError where they cannot be written.
        """

    def header(self, volume: str) -> ScanHeader | None:
        """What the metadata says of a volume whose own header is blank; None elsewhere."""
        return None

    def settings(self) -> dict[str, Any]:
        """Plain values; part of a data hash."""
        return {"benchmark": self.facts.name, **asdict(self)}

    def path(self, *parts: str) -> Path:
        """A path under the root."""
        return Path(self.root, *parts)

    def filled(self) -> tuple[PaperTable, ...]:
        """Tables of the paper that answers under these settings fill."""
        return self.tables

    def variants(self, rows: Sequence[Row]) -> dict[str, list[Row]]:
        """Prediction rows that fill a column each; one column named "" unless overridden."""
        return {"": list(rows)}

    def score(self, rows: Sequence[Row], protocol: str, bert: Bert | None = None) -> Scored:
        """All measures of one variant. bert: BERTScore F1 of pairs, or None without an encoder."""
        raise NotImplementedError

    def choice_text(self, row: Row, letter: str, protocol: str) -> str:
        """What a model that picks `letter` has to write to be understood under a protocol.

        In the style of the supervised answer unless overridden: "B", "no" or "B. no".
        """
        return in_style(row, letter)


def inside(name: str, what: str = "volume") -> str:
    """A relative path as published, refused where it leads out of its root."""
    text = name.strip().replace("\\", "/")
    if not text or "\0" in text:
        raise BadRow("path", f"the {what} has no name; write its path")
    drive = text[1:2] == ":" and text[0].isalpha()  # of Windows
    if drive or text[0] in "/~" or ".." in text.split("/"):
        raise BadRow("path", f"{what} {name!r} leads out of the data root; write a relative path")
    return text


def need(row: Row, key: str, what: str | None = None) -> str:
    """The text of a cell; BadRow where it is empty."""
    text = row.get(key)
    text = text.strip() if isinstance(text, str) else ("" if text is None else str(text))
    if not text:
        raise BadRow("empty", f"{what or key} is empty; the row is left out")
    return text


def letter_of(value: str, choices: Mapping[str, str]) -> str:
    """The right option's letter; BadRow where there is no such option."""
    letter = value.strip().strip("().:").upper()
    if letter not in choices:
        legal = ", ".join(choices) or "none"
        raise BadRow("choice", f"answer choice {value!r} is not among the options ({legal})")
    return letter


def choice_fields(question: str, choices: Mapping[str, str], letter: str) -> dict[str, Any]:
    """Fields of a choice record in this project's wording, answered by the letter."""
    return {
        "question": choice_text(question, dict(choices)),
        "answer": letter,
        "question_type": "choice",
        "choices": dict(choices),
        "answer_letter": letter,
    }
