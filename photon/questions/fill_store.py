"""`python -m photon prepare`: fill a store from files, folders and question files."""

import json
import math
import shutil
import sys
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from photon.errors import InputError
from photon.files import WriteError, write_text
from photon.volume.dicom import is_dicom, slice_files
from photon.volume.geometry import Preparation
from photon.volume.pool import WorkerDied, run_cases, worker_count
from photon.volume.reader import find_sources
from photon.volume.sources import Source, kind_of, label, locate, names
from photon.volume.store import VolumeStore
from photon.volume.types import ScanHeader

BAD_CASES = "bad_cases.jsonl"
_BYTES_A_PROCESS = 64 << 20  # some seconds of reading and resampling


@dataclass(frozen=True)
class Case:
    """One scan, perhaps with its label map, and with a header where its own is blank.

    The source may be an image or a video too, which have neither.
    """

    source: Source
    labels: str | None = None
    header: ScanHeader | None = None


@dataclass
class Outcome:
    """What a run of `prepare_all` did."""

    cases: int = 0
    prepared: int = 0
    skipped: int = 0
    bad: list[tuple[Case, str]] = field(default_factory=list)


def prepare_all(
    inputs: list[str],
    store_root: str | Path,
    preparation: Preparation,
    root: str | Path | None = None,
    workers: int | None = None,
) -> Outcome:
    """Prepare all scans that the inputs name; returns the counts and the bad cases.

    Raises:
        InputError: an input does not exist or names no scan, or the disk has no room.
    """
    return prepare_cases(collect_cases(inputs, root), store_root, preparation, workers)


def prepare_cases(
    cases: list[Case],
    store_root: str | Path,
    preparation: Preparation,
    workers: int | None = None,
    check_hu: bool = False,
) -> Outcome:
    """`prepare_all` for scans that are known; `check_hu` as for `VolumeStore`."""
    store = VolumeStore(store_root, preparation, check_hu)
    todo = [case for case in cases if not is_prepared(store, case)]
    outcome = Outcome(cases=len(cases), skipped=len(cases) - len(todo))
    _check_room(store, todo)
    bad_file = _BadCases(store, cases)
    workers = worker_count(workers, len(todo) if workers else _worth_processes(todo))
    console = Console(stderr=True)
    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not todo) as progress:
        bar = progress.add_task("", total=len(todo))

        def done(case: Case, result: tuple[str | None, list[str]] | WorkerDied) -> None:
            error, notes = result if isinstance(result, tuple) else (_died(case, result), [])
            for note in notes:
                console.print(f"warning: {note}", markup=False, soft_wrap=True, highlight=False)
            if error is None:
                outcome.prepared += 1
            else:
                outcome.bad.append((case, error))
                bad_file.add(case, error)
                console.print(f"skipped: {error}", markup=False, soft_wrap=True, highlight=False)
            progress.advance(bar)

        run_cases(partial(_prepare_case, store), todo, workers, done)
    print(_summary(outcome, store), file=sys.stdout)
    return outcome


def is_prepared(store: VolumeStore, case: Case) -> bool:
    """Whether the store holds a case, read with the header that is declared for it now."""
    known = store.is_known(case.source, case.labels)
    return known and store.declared(case.source) == case.header


def collect_cases(inputs: list[str], root: str | Path | None = None) -> list[Case]:
    """Scans named by files, DICOM folders, folders to search and .jsonl files, each once."""
    cases: dict[tuple[Source, str | None], Case] = {}
    for text in inputs:
        path = Path(text)
        if kind_of(path) != "volume" and not is_dicom(path):
            found = [Case(str(path))]
        elif path.is_dir():
            found = [Case(str(path))] if slice_files(path) else []
            found = found or [Case(str(source)) for source in find_sources(path)]
            if not found:
                raise InputError(f"{path}: holds no NIfTI file or DICOM series. Check the path.")
        elif path.suffix.lower() in (".jsonl", ".json"):
            found = _cases_of_records(path, root)
        elif path.is_file() and is_dicom(path):
            raise InputError(f"{path}: is one DICOM slice. Give the folder that holds the series.")
        else:  # a missing file is a bad case like others, unless it is all there is
            found = [Case(str(path))]
        cases.update({(case.source, case.labels): case for case in found})
    with_labels = {source for source, labels in cases if labels is not None}
    return [case for case in cases.values() if case.labels or case.source not in with_labels]


def _cases_of_records(path: Path, root: str | Path | None) -> list[Case]:
    from photon.questions.record import read_records

    records, problems = read_records(path)
    for problem in problems:
        warnings.warn(f"{problem} (line skipped)", stacklevel=2)
    folder = Path(root) if root is not None else path.parent
    found = [
        Case(locate(folder, volume), str(folder / labels) if labels else None)
        for record in records
        for volume, labels in zip(record.volumes, record.label_maps, strict=True)
    ]
    if not found:
        raise InputError(f"{path}: names no volume. Each line needs a 'videos' key with a path.")
    return found


def _prepare_case(store: VolumeStore, case: Case) -> tuple[str | None, list[str]]:
    """(what is wrong or None, warnings); only a store that cannot be written raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            store.declare(case.source, case.header)
            store.prepare(case.source, case.labels)
            error = None
        except WriteError:
            raise
        except InputError as problem:
            error = str(problem)
        except Exception as problem:  # one odd file must not end a long run
            error = f"{label(case.source)}: unexpected {type(problem).__name__}: {problem}."
    return error, [str(item.message) for item in caught]


def _died(case: Case, result: WorkerDied) -> str:
    return f"{label(case.source)}: {result}"


def _worth_processes(cases: list[Case]) -> int:
    """How many processes the scans keep busy for longer than a process takes to start."""
    paths = [Path(name) for case in cases for name in names(case.source)]
    files = [file for path in paths for file in ([*path.glob("*")] or [path])]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return min(len(cases), 1 + size // _BYTES_A_PROCESS)


def _check_room(store: VolumeStore, todo: list[Case]) -> None:
    """Say how much disk the run needs; refuse when it is not there.

    Of images and videos only a bound is known beforehand, which is said and refuses nothing.
    """
    size, images = store.preparation.size, store.preparation.images
    kinds = [kind_of(case.source) for case in todo]
    volumes = [case for case, kind in zip(todo, kinds, strict=True) if kind == "volume"]
    need = sum(math.prod(size) * (2 if case.labels is None else 3) for case in volumes)
    others = 3 * images.max_pixels * kinds.count("image")
    others += 3 * images.frame_pixels * images.frames * kinds.count("video")
    store.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(store.root).free
    print(
        f"{len(todo)} cases to prepare (volumes to {'x'.join(map(str, size))}) in {store.root}: "
        f"{need / 2**30:.2f} GiB {f'and up to {others / 2**30:.2f} of images ' if others else ''}"
        f"of {free / 2**30:.1f} GiB free",
        file=sys.stderr,
    )
    if need > free:
        raise InputError(
            f"{store.root}: {need / 2**30:.2f} GiB are needed and {free / 2**30:.2f} GiB are free. "
            "Free space, choose another --store, or prepare fewer volumes at a time."
        )


class _BadCases:
    """STORE/bad_cases.jsonl: earlier runs' cases stay until a run tries them again."""

    def __init__(self, store: VolumeStore, cases: list[Case]) -> None:
        self.path = store.root / BAD_CASES
        self.fingerprint = store.folder.name
        tried = {str(case.source) for case in cases}
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if json.loads(line)["source"] not in tried]
        if kept != lines:
            write_text(self.path, "".join(line + "\n" for line in kept))
            if not kept:
                self.path.unlink()

    def add(self, case: Case, error: str) -> None:
        row = {"source": str(case.source), "labels": case.labels, "error": error}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row | {"preparation": self.fingerprint}) + "\n")


def _summary(outcome: Outcome, store: VolumeStore) -> str:
    text = f"{outcome.prepared} prepared, {outcome.skipped} already there, {len(outcome.bad)} bad"
    if outcome.bad:
        text += f" (see {store.root / BAD_CASES})"
    return f"{text}; store {store.folder}"
