"""`python -m photon check`: verify question files and the volumes they name; collect all errors."""

import json
import sys
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from photon.errors import InputError
from photon.volume.entries import write_atomically
from photon.volume.geometry import same_grid
from photon.volume.pool import WorkerDied, run_cases, worker_count
from photon.volume.reader import read_labels, read_volume

_SHOWN = 50


@dataclass
class Report:
    """Findings of a check. An item is {"kind", "where", "message"}."""

    files: dict[str, int] = field(default_factory=dict)  # file -> valid records
    volumes: int = 0
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

    report = Report()
    pairs: dict[tuple[str, str | None], None] = {}
    seen: dict[str, dict[str, set[str]]] = {key: defaultdict(set) for key in _UNIQUE}
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
        report.files[file] = len(records)
        folder = Path(root) if root is not None else Path(file).parent
        for record in records:
            _check_record(report, file, record)
            for volume, labels in zip(record.volumes, record.label_maps, strict=True):
                pairs[str(folder / volume), str(folder / labels) if labels else None] = None
                seen["volume"][str(folder / volume)].add(file)
            seen["id"][record.id].add(file)
            if record.patient is not None:
                seen["patient"][record.patient].add(file)
    _check_overlap(report, seen, splits)
    if volumes:
        _check_volumes(report, list(pairs), modality, assume_orientation, workers)
    return report


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


def _check_overlap(report: Report, seen: dict[str, dict[str, set[str]]], splits: bool) -> None:
    for kind, way_out in _UNIQUE.items():
        if kind != "id" and not splits:
            continue
        shared = {name: files for name, files in seen[kind].items() if len(files) > 1}
        for name, where in shared.items():
            message = f"is in {' and '.join(sorted(where))}. {way_out}"
            report.error("overlap", f"{kind} {name}", message)


def _check_volumes(
    report: Report,
    pairs: list[tuple[str, str | None]],
    modality: str,
    assume_orientation: str | None,
    workers: int | None,
) -> None:
    scans: dict[str, list[str]] = defaultdict(list)
    for volume, labels in pairs:
        scans[volume] += [labels] if labels is not None else []
    report.volumes = len(scans)
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not scans) as progress:
        bar = progress.add_task("", total=len(scans))

        def done(case: tuple[str, list[str]], result: Any) -> None:
            if isinstance(result, WorkerDied):
                report.error("volume", case[0], f"{case[0]}: {result}")
            else:
                for kind, where, message in result["errors"]:
                    report.error(kind, where, message)
                for message in result["warnings"]:
                    report.warning("volume", case[0], message)
            progress.advance(bar)

        work = partial(check_volume, modality=modality, assume_orientation=assume_orientation)
        run_cases(work, list(scans.items()), worker_count(workers, len(scans)), done)
    report.errors.sort(key=lambda item: item["kind"] in ("volume", "hu", "labels"))


def check_volume(
    case: tuple[str, list[str]], modality: str, assume_orientation: str | None
) -> dict[str, list]:
    """Read a scan and its label maps; {"errors": [(kind, where, message)], "warnings": [...]}."""
    source, label_maps = case
    errors: list[tuple[str, str, str]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = None
        try:
            volume = read_volume(source, assume_orientation=assume_orientation)
        except InputError as error:
            errors.append(("volume", source, str(error)))
        if volume is not None and (problem := implausible(volume.array, modality)):
            errors.append(("hu", source, f"{source}: {problem}"))
        for path in label_maps:
            try:
                labels = read_labels(path, assume_orientation)
            except InputError as error:
                errors.append(("labels", path, str(error)))
                continue
            if not labels.array.any():
                errors.append(("labels", path, f"{path}: holds no label. Check the file."))
            if volume is not None and not same_grid(
                (labels.array.shape, labels.affine), (volume.array.shape, volume.affine)
            ):
                message = (
                    f"{path}: lies on another voxel grid than {source} (shape or affine differ). "
                    "Resample the label map to its scan with nearest neighbour."
                )
                errors.append(("labels", path, message))
    return {"errors": errors, "warnings": [str(item.message) for item in caught]}


def implausible(array: np.ndarray, modality: str = "ct") -> str | None:
    """What about the values [D, H, W] of a CT does not look like HU; None where all is well."""
    sample = array[:: max(1, array.shape[0] // 64), ::4, ::4] if array.size > 10**6 else array
    low, high = float(sample.min()), float(sample.max())
    if low == high:
        return f"all voxels are {low:g}. Export the scan again."
    if modality != "ct":
        return None
    if high - low < 16:
        return f"values run from {low:g} to {high:g} and are not HU. Take the original scan."
    if low >= 0:
        return (
            f"no value is below 0 (lowest {low:g}): the rescale intercept (often -1024) is "
            "missing. Apply it, or use --modality mr if this is not a CT."
        )
    tissue = np.count_nonzero((sample > -200) & (sample < 300)) / sample.size
    if tissue < 0.01:
        return (
            f"only {100 * tissue:.2f} % of voxels lie in -200..300 HU, where soft tissue is. "
            "The rescale was applied twice or not at all; export the scan again."
        )
    return None


def write_report(report: Report, path: str | Path) -> None:
    """All findings as JSON, written whole or not at all."""
    text = json.dumps(asdict(report) | {"ok": not report.errors}, indent=1) + "\n"
    write_atomically(Path(path), lambda stream: stream.write(text.encode()))


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
