"""Where the volumes of CT-RATE and of AbdomenAtlas lie; 3D-RAD and DeepTumorVQA use them too."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from photon.benchmarks.benchmark import BadRow, Benchmark, inside, need
from photon.benchmarks.rows import TableError, read_table
from photon.errors import InputError
from photon.volume.types import ScanHeader

Scans = Literal["fixed", "original", "flat"]
CT_RATE_NAME = re.compile(r"(train|test|valid)_(\d+)_([a-z]+)_(\d+)(?:\.nii\.gz)?")
CASE_NAME = re.compile(r"BDMAP_[A-Z]*\d+", re.IGNORECASE)
FINDINGS = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema",
    "Atelectasis", "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela",
    "Pleural effusion", "Mosaic attenuation pattern", "Peribronchial thickening",
    "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
)  # fmt: skip
_SPLIT_FILES = {"train": "train", "valid": "validation"}
_HEADER_COLUMNS = ("volumename", "rescaleslope", "rescaleintercept", "xyspacing", "zspacing")


@dataclass(frozen=True)
class OnCtRate(Benchmark):
    """A benchmark on CT-RATE's scans.

    Args:
        volumes: folder of CT-RATE.
        scans: fixed: the corrected files, never rescaled again; original: those with blank headers,
            read with the metadata CSV; flat: files directly in `volumes`, named as in the rows.
        orientation: of the originals' axes, ITK letters.
    """

    volumes: str = "CT-RATE"
    scans: Scans = "fixed"
    orientation: str | None = None

    def header(self, volume: str) -> ScanHeader | None:
        if self.scans != "original":
            return None
        return ct_rate_header(Path(self.root), self.volumes, volume, self.orientation)


@lru_cache(maxsize=1 << 16)  # a scan has ten questions or more
def ct_rate_patient(name: str) -> str:
    """CT-RATE's patient ("valid_1004"), under 3D-RAD's "test_1004_a_1.nii.gz" too; a name of
    another form is its own patient."""
    match = CT_RATE_NAME.fullmatch(name)
    return f"{_folder(match)}_{match.group(2)}" if match else name


@lru_cache(maxsize=1 << 16)
def ct_rate_path(name: str, volumes: str, scans: Scans) -> str:
    """Path of a scan below the data root; BadRow where the name is not one of CT-RATE's."""
    name = inside(name)
    if scans == "flat":
        return f"{volumes}/{name}" if "." in name else f"{volumes}/{name}.nii.gz"
    match = CT_RATE_NAME.fullmatch(name)
    if match is None:
        raise BadRow("path", f"{name!r} is not a CT-RATE name such as train_1_a_1.nii.gz")
    top, patient = _folder(match), ct_rate_patient(name)
    visit = f"{patient}_{match.group(3)}"
    folder = f"{top}_fixed" if scans == "fixed" else top
    return f"{volumes}/dataset/{folder}/{patient}/{visit}/{visit}_{match.group(4)}.nii.gz"


def _folder(match: re.Match) -> str:
    return "train" if match.group(1) == "train" else "valid"


def ct_rate_header(root: Path, volumes: str, path: str, orientation: str | None) -> ScanHeader:
    """What CT-RATE's metadata CSV says of an original scan; BadRow where it says nothing.

    orientation: ITK letters of the originals' axes; the CSV does not give them.
    """
    if orientation is None:
        raise InputError(
            "scans=original needs orientation: the original files do not say where their axes come "
            "from, and the metadata CSV does not either. Their corrected copies have axes RAI (ITK)"
        )
    name = path.rsplit("/", 1)[-1]
    split = _SPLIT_FILES[name.split("_")[0]]
    csv = root / volumes / "dataset" / "metadata" / f"{split}_metadata.csv"
    rows = _headers(csv)
    if name not in rows:
        raise BadRow("metadata", f"{csv} has no usable row of {name}: its rescale is unknown")
    slope, intercept, spacing = rows[name]
    return ScanHeader(slope, intercept, spacing, orientation)


@cache
def _headers(csv: Path) -> Mapping[str, tuple[float, float, tuple[float, float, float]]]:
    found = {}
    try:
        for _, row in read_table(csv, _HEADER_COLUMNS):
            if not isinstance(row, TableError):
                try:
                    found[need(row, "volumename")] = _header(row)
                except (BadRow, ValueError):
                    continue  # a scan without rescale is named when it is asked for
    except TableError as error:
        raise InputError(f"{error.where}: {error}") from error
    return found


def _header(row: Mapping) -> tuple[float, float, tuple[float, float, float]]:
    """Slope, intercept and spacing; XYSpacing is written "[0.34, 0.34]"."""
    x, y = (float(v) for v in need(row, "xyspacing").strip("[] ").split(","))
    slope, intercept = float(need(row, "rescaleslope")), float(need(row, "rescaleintercept"))
    return slope, intercept, (x, y, float(need(row, "zspacing")))


def atlas_paths(root: Path, volumes: str) -> Mapping[str, str]:
    """Case id -> path below `root` of every BDMAP_... folder at most two levels below `volumes`.

    The archives unpack to a folder each, or to one of all; both are found.
    """
    found: dict[str, str] = {}
    pending = [(volumes, 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError:
            continue  # an absent folder: each row then names its own missing volume
        for entry in entries:
            if CASE_NAME.fullmatch(entry.name):
                found.setdefault(entry.name.upper(), f"{folder}/{entry.name}/ct.nii.gz")
            elif depth == 0 and entry.is_dir():
                pending.append((f"{folder}/{entry.name}", 1))
    return found


def case_id(text: str) -> str:
    """BDMAP_00000001 of an id cell; BadRow where there is none."""
    match = CASE_NAME.fullmatch(inside(text))
    if match is None:
        raise BadRow("path", f"{text!r} is not a case id such as BDMAP_00000001")
    return match.group().upper()


def id_file(path: Path) -> set[str]:
    """All case ids in a published id file, whatever its columns. Raises InputError when none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch the id file") from error
    found = {match.upper() for match in CASE_NAME.findall(text)}
    if not found:
        raise InputError(f"{path}: names no BDMAP_... case; give the published id file")
    return found
