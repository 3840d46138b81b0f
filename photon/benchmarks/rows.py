"""Rows of CSV, JSON, JSONL and Parquet files, with line numbers and one spelling of headers."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from photon.errors import InputError

Row = Mapping[str, Any]
TABLES = (".csv", ".jsonl", ".json", ".parquet")
_SKIP = re.compile(r"[\s_\-]+")
_LONGEST_CELL = 1 << 24  # more is an open quote that swallowed the file


class TableError(InputError):
    """A file, or one row of it, that cannot be read; `where` names the place."""

    def __init__(self, kind: str, where: str, message: str):
        super().__init__(message)
        self.kind, self.where = kind, where


def place(path: Path) -> str:
    """Where a row is, for `format`: "FILE:{}", or "FILE[{}]" where the file has no lines."""
    name = str(path).replace("{", "{{").replace("}", "}}")
    return f"{name}[{{}}]" if path.suffix in (".json", ".parquet") else f"{name}:{{}}"


def squash(header: str) -> str:
    """One spelling of a column or subtype: "Question Type", "question_type" -> "questiontype"."""
    return _SKIP.sub("", header).lower()


def read_table(
    path: Path, required: tuple[str, ...], under: str = "questions"
) -> Iterator[tuple[int, Row | TableError]]:
    """(line, row) of each row, keys squashed; a broken row comes as the TableError it is.

    A byte-order mark and CRLF are tolerated. For JSON lists and Parquet the line is the row's
    number; `under` is the key of the list where a JSON file holds an object. Raises TableError
    (kind "file" or "column") where the whole file is unusable.
    """
    json_rows = partial(_json, under=under)
    rows = {".csv": _csv, ".jsonl": _jsonl, ".json": json_rows, ".parquet": _parquet}
    if path.suffix.lower() not in rows:
        raise TableError("file", str(path), f"is none of {', '.join(TABLES)}; convert it")
    try:
        yield from rows[path.suffix.lower()](path, required)
    except OSError as error:
        message = f"cannot be read ({error.strerror or error}); fetch it"
        raise TableError("file", str(path), message) from error


def _check_columns(path: Path, line: int, have: set[str], required: tuple[str, ...]) -> None:
    absent = [name for name in required if name not in have]
    if absent:
        raise TableError(
            "column",
            f"{path}:{line}",
            f"has no column {', '.join(absent)} (it has {', '.join(sorted(have)[:20])}); "
            "give the published file",
        )


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TableError("file", f"{path}:{line}", "is not UTF-8; save the file as UTF-8") from None


def _csv(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, Row | TableError]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        header = [squash(name) for name in next(reader, [])]
        _check_columns(path, 1, set(header), required)
        line = reader.line_num + 1
        for fields in reader:
            if len(fields) == len(header):
                yield line, dict(zip(header, fields, strict=True))
            elif fields:
                message = f"has {len(fields)} fields where the header has {len(header)}; correct it"
                yield line, TableError("row", f"{path}:{line}", message)
            line = reader.line_num + 1
    except csv.Error as error:
        message = f"is not a CSV from here on ({error}); correct its quotes"
        raise TableError("file", f"{path}:{reader.line_num}", message) from error


def _jsonl(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, Row | TableError]]:
    for line, text in enumerate(_text(path).split("\n"), start=1):
        if text.strip():
            try:
                yield line, _object(path, line, json.loads(text), required)
            except json.JSONDecodeError as error:
                message = f"is not valid JSON ({error.msg}); correct it"
                yield line, TableError("row", f"{path}:{line}", message)


def _json(
    path: Path, required: tuple[str, ...], under: str
) -> Iterator[tuple[int, Row | TableError]]:
    """A list of objects, or an object with such a list under a key."""
    try:
        rows = json.loads(_text(path))
    except json.JSONDecodeError as error:
        message = f"is not valid JSON ({error.msg}); fetch it again"
        raise TableError("file", f"{path}:{error.lineno}", message) from error
    if isinstance(rows, dict):
        rows = rows.get(under)
    if not isinstance(rows, list):
        raise TableError("file", str(path), "holds no list of rows; give the published file")
    for number, row in enumerate(rows, start=1):
        yield number, _object(path, number, row, required)


def _object(path: Path, line: int, row: Any, required: tuple[str, ...]) -> Row | TableError:
    where = place(path).format(line)
    if not isinstance(row, dict):
        return TableError("row", where, f"is a {type(row).__name__}, not an object; correct it")
    row = {squash(key): value for key, value in row.items()}
    absent = [name for name in required if name not in row]
    if absent:
        return TableError("column", where, f"has no {', '.join(absent)}; the row is left out")
    return row


def _parquet(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    """All columns but embedded images, which are large (see `embedded_images`)."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        columns = [f.name for f in file.schema_arrow if not pyarrow.types.is_struct(f.type)]
        _check_columns(path, 1, {squash(name) for name in columns}, required)
        batches = file.iter_batches(columns=columns)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield number, {squash(key): value for key, value in row.items()}
    except pyarrow.ArrowInvalid as error:
        raise TableError("file", str(path), f"is not Parquet ({error}); fetch it again") from error


def embedded_images(path: Path) -> Iterator[tuple[Row, list[bytes]]]:
    """(row, bytes of the images inside it, in the order of their columns) of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    images = [f.name for f in file.schema_arrow if pyarrow.types.is_struct(f.type)]
    for batch in file.iter_batches(batch_size=16):  # some hundred megabytes in all
        for row in batch.to_pylist():
            cells = [row.pop(name) or {} for name in images]
            yield (
                {squash(key): value for key, value in row.items()},
                [cell["bytes"] for cell in cells if cell.get("bytes")],
            )
