"""`python -m photon check`: verify question files and the volumes they name; collect all errors."""

import os
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from photon.errors import InputError
from photon.files import write_json
from photon.volume.geometry import check_grid
from photon.volume.pool import WorkerDied, run_cases, worker_count
from photon.volume.reader import implausible, read_labels, read_volume
from photon.volume.sources import Source, absent, kind_of, label, locate, names
from photon.volume.types import ScanHeader

_SHOWN = 50
_READ = ("volume", "hu", "labels", "image", "video")  # errors that come last
ScanCase = tuple[Source, list[str], ScanHeader | None]  # scan, label maps, declared header


@dataclass
class Report:
    """Findings of a check. A finding is {"kind", "where", "message"}."""

    files: dict[str, int] = field(default_factory=dict)  # file or split -> valid records
    expected: dict[str, int] = field(default_factory=dict)  # split -> published rows
    volumes: int = 0
    splits: dict[Source, set[str]] = field(default_factory=dict, repr=False)  # of each volume
    errors: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)

    def error(self, kind: str, where: str, message: str) -> None:
        self.errors.append({"kind": kind, "where": where, "message": message})

    def warning(self, kind: str, where: str, message: str) -> None:
        self.warnings.append({"kind": kind, "where": where, "message": message})


def check_dataset(
    files: list[str],
    root: str | Path | None = None,
    modality: str = "ct",
    splits: bool = True,
    volumes: bool = True,
    assume_orientation: str | None = None,
    workers: int | None = None,
) -> Report:
    """Check question files and their volumes; nothing is raised for what is wrong with the data.

    Args:
        files: .jsonl files; each is one split unless `splits` is False.
        root: folder of the paths in the files; None takes each file's own folder.
        modality: "ct" also checks that values look like HU; "mr" does not.
        splits: patients and volumes must not occur in two files.
        volumes: also read every volume and label map.
    """
    from photon.questions.record import read_records

    report, parts = Report(), []
    for name, count in Counter(os.path.realpath(file) for file in files).items():
        if count > 1 and splits:
            message = "is given as several splits. Give each split its own questions."
            report.error("overlap", name, message)
    for file in files:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                records, problems = read_records(file)
            except InputError as error:
                report.error("file", file, str(error))
                continue
        for item in caught:
            report.warning("file", file, str(item.message))
        for problem in problems:
            report.error("record", file, problem)
        if not records:
            report.error("file", file, f"{file}: holds no valid record.")
        folder = Path(root) if root is not None else Path(file).parent
        if root is not None:
            records = [r for r in records if _stays_inside(report, file, r)]
        parts.append(Part(file, records, folder))
    scans = check_parts(report, parts, splits)
    if volumes:
        check_volumes(report, scans, modality, assume_orientation, workers)
    return report


@dataclass
class Part:
    """Records of one split; `name` is its file or its benchmark and split."""

    name: str
    records: list[Any]
    folder: Path


def check_parts(report: Report, parts: list[Part], splits: bool = True) -> dict[Source, list[str]]:
    """Check the text of all records and what parts share; the scans with their label maps."""
    scans: dict[Source, list[str]] = defaultdict(list)
    seen: dict[str, dict[Source, set[str]]] = {key: defaultdict(set) for key in _UNIQUE}
    spelt: dict[str, str] = {}
    for part in parts:
        report.files[part.name] = report.files.get(part.name, 0) + len(part.records)
        for record in part.records:
            _check_record(report, part.name, record)
            for volume, labels in zip(record.volumes, record.label_maps, strict=True):
                path = _plain(locate(part.folder, volume))
                seen["volume"][path].add(part.name)
                maps = scans[path]
                if labels and str(part.folder / labels) not in maps:
                    maps.append(str(part.folder / labels))
            seen["id"][record.id].add(part.name)
            if record.patient is not None:
                one = " ".join(record.patient.split()).casefold()  # however it is spelt
                seen["patient"][spelt.setdefault(one, record.patient)].add(part.name)
    report.splits = {path: files for path, files in seen["volume"].items()} if splits else {}
    _check_overlap(report, seen, splits)
    return scans


def _plain(source: Source) -> Source:
    """Paths without `./` and the like: two spellings are one file."""
    if isinstance(source, tuple):
        return tuple(os.path.normpath(name) for name in source)
    return os.path.normpath(source)


def _stays_inside(report: Report, file: str, record: Any) -> bool:
    """Whether all paths of a record stay below the root that was given."""
    files = [name for source in record.volumes for name in names(source)]
    files += [path for path in record.label_maps if path]
    out = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
    if out:
        message = f"{out[0]} leads out of the root. Write paths relative to it, without '..'."
        report.error("path", f"{file}: record {record.id}", message)
    return not out


_UNIQUE = {
    "id": "Give every question an id of its own.",
    "patient": "Move all questions of a patient into one split (--same-split if this is one).",
    "volume": "Move all questions of a volume into one split (--same-split if this is one).",
}


def _check_record(report: Report, file: str, record: Any) -> None:
    where = f"{file}: record {record.id}"
    if not (record.question or "").strip():
        report.error("question", where, "has no question text. Write one or remove the line.")
    if not (record.answer or "").strip():
        report.error("answer", where, "has no answer. Write one or remove the line.")
    if record.choices and record.answer_letter not in record.choices:
        report.error(
            "answer",
            where,
            f"answer letter {record.answer_letter!r} is not one of its choices "
            f"{', '.join(record.choices)}. Correct the letter or the choices.",
        )
    if record.value is not None and not np.isfinite(record.value):
        report.error("answer", where, f"value {record.value} is not a number. Correct it.")


def _check_overlap(report: Report, seen: dict[str, dict[Source, set[str]]], splits: bool) -> None:
    for kind, way_out in _UNIQUE.items():
        if kind != "id" and not splits:
            continue
        shared = {name: files for name, files in seen[kind].items() if len(files) > 1}
        for name, where in shared.items():
            message = f"is in {' and '.join(sorted(where))}. {way_out}"
            report.error("overlap", f"{kind} {label(name)}", message)


def check_volumes(
    report: Report,
    scans: Mapping[Source, list[str]],
    modality: str = "ct",
    assume_orientation: str | None = None,
    workers: int | None = None,
    headers: Mapping[Source, ScanHeader] | None = None,
) -> None:
    """Read every scan with its label maps; `headers`: those declared for blank ones."""
    report.volumes = len(scans)
    same: dict[str, list[Source]] = defaultdict(list)  # by content
    cases = [(scan, maps, (headers or {}).get(scan)) for scan, maps in scans.items()]
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not scans) as progress:
        bar = progress.add_task("", total=len(scans))

        def done(case: ScanCase, result: Any) -> None:
            if isinstance(result, WorkerDied):
                report.error("volume", label(case[0]), f"{label(case[0])}: {result}")
            else:
                for kind, where, message in result["errors"]:
                    report.error(kind, where, message)
                if result.get("sha256"):
                    same[result["sha256"]].append(case[0])
                for message in result["warnings"]:
                    report.warning("volume", label(case[0]), message)
            progress.advance(bar)

        work = partial(check_volume, modality=modality, assume_orientation=assume_orientation)
        run_cases(work, cases, worker_count(workers, len(scans)), done)
    _check_copies(report, same)
    report.errors.sort(key=lambda item: item["kind"] in _READ)


def _check_copies(report: Report, same: Mapping[str, list[Source]]) -> None:
    """One scan under two names is in two splits, or counts twice in one."""
    for sources in (found for found in same.values() if len(found) > 1):
        splits = set().union(*(report.splits.get(source, set()) for source in sources))
        told = f"{', '.join(map(label, sources))} have the same bytes"
        if len(splits) > 1:
            where = " and ".join(sorted(splits))
            told += f" and are in {where}. {_UNIQUE['volume']}"
            report.error("overlap", f"volume {label(sources[0])}", told)
        else:
            report.warning("volume", label(sources[0]), told)


def check_volume(case: ScanCase, modality: str, assume_orientation: str | None) -> dict[str, list]:
    """Read a scan and its label maps; {"errors": [(kind, where, message)], "warnings": [...]}."""
    try:
        return _check_volume(case, modality, assume_orientation)
    except Exception as error:  # one malformed file must not cost the report of all others
        what = f"{label(case[0])}: cannot be read ({type(error).__name__}: {error})"
        return {"errors": [("volume", label(case[0]), what)], "warnings": [], "sha256": None}


def _check_volume(case: ScanCase, modality: str, assume_orientation: str | None) -> dict[str, Any]:
    source, label_maps, header = case
    if kind_of(source) != "volume":
        return _check_image(source)
    errors: list[tuple[str, str, str]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = None
        try:
            volume = read_volume(source, assume_orientation=assume_orientation, header=header)
        except InputError as error:
            errors.append(("volume", source, str(error)))
        if header is not None and header.spacing is None:
            modality = "array"  # its values are not HU
        if volume is not None and (problem := implausible(volume.array, modality)):
            errors.append(("hu", source, f"{source}: {problem}"))
        for path in label_maps:
            try:
                labels = read_labels(path, assume_orientation)
                if not labels.array.any():
                    raise InputError(f"{path}: holds no label. Check the file.")
                if volume is not None:
                    check_grid(labels, volume.grid, source)
            except InputError as error:
                errors.append(("labels", path, str(error)))
    sha256 = None if volume is None else volume.sha256
    return {"errors": errors, "warnings": [str(w.message) for w in caught], "sha256": sha256}


def _check_image(source: Source) -> dict[str, list]:
    """Read an image, or the frames of a video that would be sampled; as `check_volume`."""
    from photon.volume.images.preparation import ImagePreparation
    from photon.volume.images.reading import read_image
    from photon.volume.images.video import read_video

    kind, errors = kind_of(source), []
    try:
        if missing := absent(source):
            raise InputError(f"{missing}: no such file. Check the path and the data root.")
        read_image(source) if kind == "image" else read_video(source, ImagePreparation())
    except InputError as error:
        errors.append((kind, label(source), str(error)))
    return {"errors": errors, "warnings": []}


def write_report(report: Report, path: str | Path) -> None:
    """All findings as JSON, written whole or not at all."""
    counts = {
        "error_counts": Counter(item["kind"] for item in report.errors),
        "warning_counts": Counter(item["kind"] for item in report.warnings),
    }
    found = {key: value for key, value in asdict(report).items() if key != "splits"}
    write_json(path, found | counts | {"ok": not report.errors})


def print_report(report: Report) -> int:
    """Print the findings; returns the exit code."""
    for name, items in (("warning", report.warnings), ("error", report.errors)):
        for item in items[:_SHOWN]:
            where, message = item["where"], item["message"]
            text = message if message.startswith(where) else f"{where}: {message}"
            print(f"{name}: {text}", file=sys.stderr)
        if len(items) > _SHOWN:
            print(f"... and {len(items) - _SHOWN} more {name}s (--report)", file=sys.stderr)
    records = sum(report.files.values())
    print(
        f"{len(report.files)} files, {records} records, {report.volumes} volumes: "
        f"{len(report.errors)} errors, {len(report.warnings)} warnings"
    )
    return int(bool(report.errors))
