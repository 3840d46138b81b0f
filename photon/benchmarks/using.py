"""What `prepare` and `check` do with a benchmark: its cases, its report."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from photon.benchmarks.benchmark import AbsentFiles, BadRow, Benchmark, Finding, Kind, Reading
from photon.errors import InputError
from photon.files import write_text
from photon.questions.check_files import Part, Report, check_parts, check_volumes
from photon.questions.fill_store import Case, Outcome, prepare_cases
from photon.volume.preparation import Preparation
from photon.volume.sources import Source, locate

BAD_ROWS = "bad_rows.jsonl"


def cases_of(reader: Benchmark, reading: Reading) -> list[Case]:
    """The scans of a reading, each once, with their declared headers.

    Records whose scan the metadata does not know are left out, each as a problem.
    """
    root = Path(reader.root)
    cases: dict[tuple[Source, str | None], Case] = {}
    unknown: dict[Source, BadRow] = {}
    for record in reading.records:
        for volume, labels in zip(record.volumes, record.label_maps, strict=True):
            if (volume, labels) in cases or volume in unknown:
                continue
            try:
                header = reader.header(volume)
            except BadRow as error:
                unknown[volume] = error
                continue
            path = str(root / labels) if labels else None
            cases[volume, labels] = Case(locate(root, volume), path, header)
    kept = []
    for record in reading.records:
        errors = [unknown[volume] for volume in record.volumes if volume in unknown]
        if errors:
            reading.problem(errors[0].kind, reading.places[record.id], str(errors[0]))
        else:
            kept.append(record)
    reading.records = kept
    return list(cases.values())


def read_all(
    reader: Benchmark, splits: Sequence[str] | None = None
) -> list[tuple[str, Kind, Reading]]:
    """Every split and kind whose files are there; absence of a published split is a problem.

    Raises InputError where no split is there, or one that `splits` names.
    """
    kinds = reader.facts.kinds
    if kinds == ("reports", "questions"):  # the same records under both names
        kinds = kinds[:1]
    found: list[tuple[str, Kind, Reading]] = []
    absent: list[tuple[str, Kind, AbsentFiles]] = []
    for split in splits or reader.facts.splits:
        there: list[tuple[str, Kind, Reading]] = []
        errors: list[tuple[str, Kind, AbsentFiles]] = []
        for kind in kinds:
            try:
                there.append((split, kind, reader.read(split, kind)))
            except AbsentFiles as error:
                errors.append((split, kind, error))
        found += there
        absent += [] if there else errors
    if not found or (splits and absent):
        raise absent[0][2]
    for split, kind, error in absent:
        if reader.expected(split, kind) is not None:
            reading = Reading()
            reading.problem("file", f"{reader.facts.name} {split}", str(error))
            found.append((split, kind, reading))
    return found


def prepare_benchmark(
    reader: Benchmark,
    store_root: str | Path,
    preparation: Preparation,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
) -> Outcome:
    """Prepare all volumes of a benchmark; rows that cannot be used go to STORE/bad_rows.jsonl.

    Raises:
        InputError: no file or no volume is there, or the disk is too small.
    """
    reader.unpack()
    cases: dict[tuple[Source, str | None], Case] = {}
    bad: list[Finding] = []
    for split, kind, reading in read_all(reader, splits):
        reading.require(Path(reader.root))
        for case in cases_of(reader, reading):
            cases[case.source, case.labels] = case
        bad += reading.problems
        print(f"{reader.facts.name} {split} {kind}: {describe(reading)}", file=sys.stderr)
    file = write_findings(Path(store_root) / BAD_ROWS, bad)
    if bad:
        print(f"rows left out are listed in {file}", file=sys.stderr)
    if not cases:
        raise InputError(
            f"no volume of {reader.facts.name} is under {reader.root} ({reader.facts.layout}); "
            "set --root and the folders (--reader.KEY)"
        )
    hu = reader.facts.ct
    return prepare_cases(list(cases.values()), store_root, preparation, workers, check_hu=hu)


def check_benchmark(
    reader: Benchmark,
    splits: Sequence[str] | None = None,
    volumes: bool = True,
    workers: int | None = None,
    modality: str = "ct",
) -> Report:
    """Counts, rows, ids, patient overlap between splits, missing volumes and HU, in one report.

    modality: of a data set that is not known to be CT; "mr" does not look at HU.
    """
    report, parts, headers = Report(), [], {}
    if volumes:
        reader.unpack()
    for split, kind, reading in read_all(reader, splits):
        name = f"{reader.facts.name} {split}"
        _check_count(report, f"{name} {kind}", reading, reader.expected(split, kind))
        if volumes:
            reading.require(Path(reader.root))
            headers.update({c.source: c.header for c in cases_of(reader, reading) if c.header})
        for item in reading.problems:
            report.error(item.kind, item.where, item.message)
        for item in reading.notes:
            report.warning(item.kind, item.where, item.message)
        parts.append(Part(name, reading.records, Path(reader.root)))
    scans = check_parts(report, parts)
    if volumes:
        kind = "ct" if reader.facts.ct else modality
        check_volumes(report, scans, kind, workers=workers, headers=headers)
    return report


def _check_count(report: Report, name: str, reading: Reading, expected: int | None) -> None:
    if expected is None or not reading.files:  # absent files are a problem already
        return
    report.expected[name] = expected
    rows = len(reading.records) + len(reading.problems)
    if rows != expected:
        message = f"has {rows} rows where {expected} are published. Fetch what is missing."
        report.error("count", name, message)


def describe(reading: Reading) -> str:
    """One line: records, files, and what was left out or noted, by kind."""
    text = f"{len(reading.records)} records of {len(reading.files)} files"
    for what, findings in (("left out", reading.problems), ("noted", reading.notes)):
        if findings:
            kinds = ", ".join(
                f"{n} {kind}" for kind, n in Counter(f.kind for f in findings).items()
            )
            text += f"; {what}: {kinds} (first: {findings[0]})"
    return text


def write_findings(path: Path, findings: Sequence[Finding]) -> Path:
    """One JSON line each; no file where there is nothing to say."""
    if not findings:
        path.unlink(missing_ok=True)
        return path
    lines = "".join(json.dumps(vars(f), ensure_ascii=False) + "\n" for f in findings)
    write_text(path, lines)
    return path
