"""One DICOM series in a folder, as one volume.

Slices are sorted by position along the normal of the image plane (never by file name or instance
number). A missing slice, uneven spacing or a second series is an error, since any of them would
give a plausible-looking volume with wrong geometry.
"""

import hashlib
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError

from photon.errors import InputError
from photon.volume.nifti import checked_affine
from photon.volume.types import Volume

_NEEDED = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def is_dicom(path: Path) -> bool:
    """Whether a file carries the DICOM preamble (or at least the suffix)."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def slice_files(folder: Path) -> list[Path]:
    """DICOM files directly in a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and is_dicom(p))


def hash_folder(folder: Path) -> str:
    """SHA-256 over the slices' own SHA-256, sorted: independent of file names."""
    digests = []
    for path in _files_or_error(folder):
        with open(path, "rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _files_or_error(folder: Path) -> list[Path]:
    files = slice_files(folder)
    if not files:
        below = sorted({p.parent for p in folder.rglob("*") if p.is_file() and is_dicom(p)})
        hint = (
            f"Give one series' own folder, for instance {below[0]}."
            if below
            else ("Give a folder of DICOM slices or a NIfTI file.")
        )
        raise InputError(f"{folder}: holds no DICOM slices. {hint}")
    return files


def read_folder(folder: Path, max_voxels: int) -> Volume:
    """The folder's one series: float32 HU [D, H, W] with slope and intercept applied once."""
    files = _files_or_error(folder)
    headers = {path: read_header(path) for path in files}
    images = {path: header for path, header in headers.items() if "Rows" in header}
    if not images:
        raise InputError(
            f"{folder}: its DICOM files hold no images. Give the folder of the CT or MR series."
        )
    if skipped := len(files) - len(images):
        warnings.warn(f"{folder}: {skipped} DICOM files without an image skipped.", stacklevel=4)
    _check_one_series(folder, images)
    for path, header in images.items():
        _check_slice(path, header)
    ordered, step = _sorted_slices(folder, images)
    first = images[ordered[0]]
    rows, columns = int(first.Rows), int(first.Columns)
    if rows * columns * len(ordered) > max_voxels:
        raise InputError(
            f"{folder}: {len(ordered)} slices of {rows} x {columns} exceed the limit of "
            f"{max_voxels} voxels. Check the headers, or resample the scan."
        )
    array = np.empty((len(ordered), rows, columns), dtype=np.float32)
    digests = []
    for index, path in enumerate(ordered):
        array[index] = _pixels(path, digests, images[path])
    for path in set(files) - set(ordered):
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    sha256 = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    affine = checked_affine(folder, _affine(first, step), "geometry")
    return Volume(array, affine, str(folder), sha256)


def read_header(path: Path) -> FileDataset:
    """All attributes but the pixels. Raises InputError on a damaged file."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: is not a readable DICOM file ({error}). Fetch it again or remove it."
        ) from error


def _check_one_series(folder: Path, images: dict[Path, FileDataset]) -> None:
    groups: dict[tuple, list[Path]] = defaultdict(list)
    for path, header in images.items():
        given = "ImageOrientationPatient" in header
        direction = _numbers(path, header, "ImageOrientationPatient", 6) if given else []
        direction = tuple(np.round(direction, 3))
        uid = str(header.get("SeriesInstanceUID", ""))
        groups[uid, int(header.Rows), int(header.Columns), direction].append(path)
    if len(groups) == 1:
        return
    lines = []
    for (uid, rows, columns, _), paths in sorted(groups.items(), key=lambda item: -len(item[1])):
        name = str(images[paths[0]].get("SeriesDescription", "")) or "no description"
        lines.append(
            f"{len(paths)} slices {rows}x{columns} {name!r} (series {uid or 'without id'}, "
            f"for instance {paths[0].name})"
        )
    raise InputError(
        f"{folder}: holds {len(groups)} series or orientations: {'; '.join(lines)}. "
        "Move each into a folder of its own."
    )


def _check_slice(path: Path, header: FileDataset) -> None:
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise InputError(
            f"{path}: is a multi-frame (enhanced) DICOM file, which is not supported. "
            "Convert it to NIfTI, for instance with dcm2niix."
        )
    if missing := [name for name in _NEEDED if not header.get(name)]:
        raise InputError(
            f"{path}: lacks {', '.join(missing)}, so its place in the body is unknown. "
            "Remove the file or export the series again."
        )
    row, column = np.reshape(_numbers(path, header, "ImageOrientationPatient", 6), (2, 3))
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if np.abs(np.array(lengths) - 1).max() > 0.01 or abs(row @ column) > 0.01:
        raise InputError(
            f"{path}: ImageOrientationPatient {[*row, *column]} is not two unit vectors at right "
            "angles. Export the series again."
        )
    _numbers(path, header, "ImagePositionPatient", 3)
    if min(_numbers(path, header, "PixelSpacing", 2)) <= 0:
        raise InputError(f"{path}: PixelSpacing is not above 0. Export the series again.")
    for name in ("RescaleSlope", "RescaleIntercept", "SliceThickness", "SpacingBetweenSlices"):
        if header.get(name) not in (None, ""):
            (value,) = _numbers(path, header, name, 1)
            if name == "RescaleSlope" and value == 0:
                raise InputError(f"{path}: RescaleSlope is 0. Export the series again.")
    if int(header.get("SamplesPerPixel", 1)) != 1 or (
        str(header.get("PhotometricInterpretation", "MONOCHROME2")) != "MONOCHROME2"
    ):
        raise InputError(
            f"{path}: is not a plain grey-scale slice "
            f"({header.get('PhotometricInterpretation')}). Give the original series."
        )


def _numbers(path: Path, header: FileDataset, name: str, count: int) -> list[float]:
    """An attribute as that many finite numbers. Raises InputError where it is not."""
    try:
        found = np.array(header.get(name), dtype=float).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        found = np.array([np.nan])
    if len(found) != count or not np.isfinite(found).all():
        raise InputError(
            f"{path}: {name} is {str(header.get_item(name).value)[:60]!r}, not {count} finite "
            f"number{'s' * (count > 1)}. Export the series again."
        )
    return found.tolist()


def _sorted_slices(folder: Path, images: dict[Path, FileDataset]) -> tuple[list[Path], np.ndarray]:
    """Files by position, and the step from one slice to the next in LPS mm."""
    first = next(iter(images.values()))
    spacings = {tuple(float(v) for v in header.PixelSpacing) for header in images.values()}
    if len(spacings) > 1:
        raise InputError(
            f"{folder}: slices differ in pixel spacing {sorted(spacings)}. "
            "Keep the slices of one reconstruction only."
        )
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row, column)
    position = {p: np.array(h.ImagePositionPatient, float) for p, h in images.items()}
    ordered = sorted(images, key=lambda path: float(position[path] @ normal))
    if len(ordered) == 1:
        thickness = first.get("SpacingBetweenSlices") or first.get("SliceThickness")
        if not thickness or float(thickness) <= 0:
            raise InputError(f"{folder}: one slice without a thickness. Give the whole series.")
        return ordered, normal * float(thickness)
    points = np.stack([position[path] for path in ordered])
    gaps = np.diff(points @ normal)
    usual = float(np.median(gaps))
    tolerance = max(0.02 * usual, 0.02)
    if (doubles := np.flatnonzero(gaps < 0.01)).size:
        a, b = ordered[doubles[0]], ordered[doubles[0] + 1]
        raise InputError(
            f"{folder}: slices {a.name} and {b.name} lie at the same place (repeated, or several "
            "phases in one series). Keep one of each."
        )
    if (odd := np.flatnonzero(np.abs(gaps - usual) > tolerance)).size:
        at = int(odd[0])
        what = "a slice is missing" if gaps[at] > 1.5 * usual else "spacing is uneven"
        raise InputError(
            f"{folder}: {what} between {ordered[at].name} and {ordered[at + 1].name} "
            f"({gaps[at]:.3f} mm where {usual:.3f} mm is usual). Complete the series."
        )
    step = (points[-1] - points[0]) / (len(points) - 1)
    line = points[0] + np.arange(len(points))[:, None] * step
    if np.abs(points - line).max() > max(0.5, tolerance):
        raise InputError(
            f"{folder}: its slices do not lie on one straight line. Export the series again."
        )
    return ordered, step


def _pixels(path: Path, digests: list[str], header: FileDataset) -> np.ndarray:
    """One slice in HU; appends the file's SHA-256."""
    stored = decode(path)
    digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    if intercept is None and str(header.get("Modality")) == "CT":
        raise InputError(
            f"{path}: a CT slice without RescaleIntercept, so its HU are unknown. "
            "Export the series again with all attributes."
        )
    values = stored.astype(np.float32)
    return values * float(1 if slope is None else slope) + float(intercept or 0)


def decode(path: Path) -> np.ndarray:
    """Stored pixel values [H, W] or [H, W, 3]. Raises InputError where they cannot be decoded."""
    try:
        with warnings.catch_warnings():
            # Decoders warn of a stream that does not give what it promises, and fill the rest.
            warnings.filterwarnings("error", module=r"pydicom\.pixels.*|pylibjpeg.*|openjpeg.*")
            read = pydicom.dcmread(path)
            array = read.pixel_array
        _check_range(path, read, array)
        return array
    except InputError:
        raise
    except RuntimeError as error:  # no decoder for this transfer syntax, or a broken stream
        raise InputError(
            f"{path}: its pixels cannot be decoded ({str(error).splitlines()[0]}). Install "
            "pylibjpeg with pylibjpeg-openjpeg and pylibjpeg-libjpeg, or fetch the file again."
        ) from error
    except Exception as error:  # decoders raise whatever they like on damaged streams
        raise InputError(
            f"{path}: its pixels are damaged ({error}). Fetch the file again."
        ) from error


def _check_range(path: Path, header: FileDataset, array: np.ndarray) -> None:
    """Values beyond the bits that the slice declares come from a damaged stream."""
    bits = int(header.get("BitsStored") or 16)
    signed = int(header.get("PixelRepresentation") or 0)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    compressed = getattr(header.file_meta, "TransferSyntaxUID", None)
    if compressed is not None and compressed.is_compressed and array.size:
        if array.min() < low or array.max() > high:
            raise InputError(
                f"{path}: its pixels run from {array.min()} to {array.max()}, beyond the {bits} "
                "bits that it declares: they are damaged. Fetch the file again."
            )


def _affine(first: FileDataset, step: np.ndarray) -> np.ndarray:
    """Pixel (column, row, slice) to RAS+ mm; DICOM itself is LPS."""
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(v) for v in first.PixelSpacing)
    lps = np.eye(4)
    lps[:3, 0] = row * between_columns
    lps[:3, 1] = column * between_rows
    lps[:3, 2] = step
    lps[:3, 3] = np.array(first.ImagePositionPatient, float)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
