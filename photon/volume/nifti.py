"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz), read to the last byte.

The header is checked before memory is taken for the voxels, and gzip streams are decompressed
within the size that the header promises, to their end, so that their checksum is verified. (Common
readers stop at the last voxel, and some return a truncated file without a word.)
"""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import isal_zlib

from photon.errors import InputError
from photon.volume.pool import free_memory
from photon.volume.types import Volume

_BLOCK = 1 << 22
_SLACK = 1 << 20  # bytes that may follow the voxels before the file is taken for something else
_HEADER = 352  # enough to tell NIfTI-1; NIfTI-2 needs _HEADER2
_HEADER2 = 544
_NEW_EXPORT = "Export it again from the original DICOM, for instance with dcm2niix."
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


class _Bytes:
    """Bytes of a plain or gzip-compressed file, in order, hashed as they are read."""

    def __init__(self, path: Path, stream: io.BufferedReader) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self._stream = stream
        self._input = self._next_block()
        self.compressed = self._input[:2] == b"\x1f\x8b"
        self._member = isal_zlib.decompressobj(wbits=31) if self.compressed else None
        self._ended = False

    def _next_block(self) -> bytes:
        block = self._stream.read(_BLOCK)
        self.digest.update(block)
        return block

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the data, which is then verified."""
        parts: list[bytes] = []
        while count > 0 and not self._ended:
            if not self.compressed:
                part, self._input = self._input[:count], self._input[count:]
                self._input = self._input or self._next_block()
                self._ended = not self._input
            else:
                part = self._inflate(count)
            parts.append(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _inflate(self, count: int) -> bytes:
        if not self._input and not self._member.eof:
            self._input = self._next_block()
            if not self._input:
                raise InputError(
                    f"{self.path}: the gzip stream ends too early (truncated download or copy). "
                    "Fetch the file again and compare its size."
                )
        try:
            part = self._member.decompress(self._input, count)
        except isal_zlib.error as error:
            raise InputError(
                f"{self.path}: the gzip stream is damaged ({error}). "
                "Fetch the file again and compare its checksum."
            ) from error
        self._input = self._member.unconsumed_tail
        if self._member.eof:
            self._finish_member()
        return part

    def _finish_member(self) -> None:
        rest = self._member.unused_data or self._next_block()
        if rest[:1] == b"\x1f" and len(rest) < 2:
            rest += self._next_block()
        if rest[:2] == b"\x1f\x8b":
            self._member = isal_zlib.decompressobj(wbits=31)
            self._input = rest
            return
        if rest.strip(b"\0"):
            warnings.warn(f"{self.path}: bytes after the end of the gzip stream.", stacklevel=6)
        while self._next_block():  # the hash covers the whole file
            pass
        self._ended = True


@dataclass(frozen=True)
class _Layout:
    shape: tuple[int, int, int]  # i, j, k
    dtype: np.dtype
    offset: int  # of the first voxel, in bytes
    slope: float
    intercept: float
    affine: np.ndarray


def read_file(path: Path, assume_orientation: str | None, max_voxels: int) -> Volume:
    """Voxels with slope and intercept applied (dtype as stored where there are none)."""
    with open(path, "rb") as stream:
        source = _Bytes(path, stream)
        named = path.name.lower().endswith(".gz")
        head = source.read(_HEADER)
        header, head = _header(path, source, head)
        if named != source.compressed:
            kind = "gzip-compressed" if source.compressed else "not compressed"
            warnings.warn(f"{path}: is {kind}, against its name.", stacklevel=4)
        layout = _layout(path, header, assume_orientation, max_voxels)
        _check_memory(path, layout)
        wanted = layout.offset + int(np.prod(layout.shape)) * layout.dtype.itemsize
        body = source.read(max(0, wanted - len(head)))
        if len(head) + len(body) < wanted:
            raise InputError(
                f"{path}: {len(head) + len(body)} bytes of data where the header promises "
                f"{wanted}. The file is truncated or its header damaged; fetch or export it again."
            )
        surplus = len(source.read(_SLACK + 1))
        if surplus > _SLACK:
            raise InputError(
                f"{path}: holds far more data than its header promises ({wanted} bytes). "
                f"The header is wrong or this is not a volume. {_NEW_EXPORT}"
            )
        if surplus:
            warnings.warn(f"{path}: {surplus} bytes after the last voxel.", stacklevel=4)
    if layout.offset >= len(head):
        raw = np.frombuffer(body, layout.dtype, offset=layout.offset - len(head))
    else:
        raw = np.frombuffer(head + body, layout.dtype, offset=layout.offset)
    array = raw.reshape(layout.shape[::-1])  # Fortran order (i, j, k) is C order [D, H, W]
    if layout.slope != 1 or layout.intercept != 0:
        array = array.astype(np.float64 if layout.dtype.itemsize > 4 else np.float32)
        array *= layout.slope
        array += layout.intercept
    return Volume(array, layout.affine, str(path), source.digest.hexdigest())


def _check_memory(path: Path, layout: _Layout) -> None:
    """Raise InputError where the voxels, as stored and as float32, would not fit into memory."""
    scaled = layout.slope != 1 or layout.intercept != 0
    needed = int(np.prod(layout.shape)) * (layout.dtype.itemsize + 4 + 4 * scaled)
    if needed > (free := free_memory()):
        raise InputError(
            f"{path}: {needed / 2**30:.1f} GiB are needed to read it, and "
            f"{free / 2**30:.1f} GiB of memory are free. Its header is damaged, "
            "or resample the scan to fewer voxels."
        )


def _header(path: Path, source: _Bytes, head: bytes) -> tuple[nib.Nifti1Header, bytes]:
    """Recognise and parse the header; returns it and the bytes read so far."""
    if not head:
        raise InputError(f"{path}: the file is empty. Fetch it again.")
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    if 540 in sizes:
        head += source.read(_HEADER2 - len(head))
        kind, size, magic = nib.Nifti2Header, 540, head[4:8]
    elif 348 in sizes:
        kind, size, magic = nib.Nifti1Header, 348, head[344:348]
    else:
        start = head.lstrip()[:20].lower()
        what = "a web page" if start.startswith((b"<!doctype", b"<html")) else "not a NIfTI file"
        raise InputError(
            f"{path}: is {what} (its first bytes are {head[:8]!r}). Download the file itself, "
            "or convert the volume to NIfTI."
        )
    if len(head) < size:
        raise InputError(f"{path}: ends within its header. Fetch it again.")
    if magic[:3] in (b"ni1", b"ni2") or not magic[:2] == b"n+":
        raise InputError(
            f"{path}: is an Analyze or two-file (.hdr/.img) image, which is not supported. "
            "Save it as one .nii.gz file, for instance with nibabel."
        )
    return kind(head[:size], check=False), head


def _layout(
    path: Path, header: nib.Nifti1Header, assume_orientation: str | None, max_voxels: int
) -> _Layout:
    """Everything the header says, checked before memory is taken."""
    dims = [int(n) for n in header["dim"]]
    count = dims[0]
    sizes = dims[1 : count + 1] if 1 <= count <= 7 else []
    if not sizes or min(sizes) < 1:
        raise InputError(f"{path}: the header's dim field {dims} is damaged. {_NEW_EXPORT}")
    if count < 3:
        raise InputError(f"{path}: is {count}-dimensional, not a volume. Give the whole 3D scan.")
    if any(size > 1 for size in sizes[3:]):
        raise InputError(
            f"{path}: has {count} dimensions {tuple(sizes)}, not 3. "
            "Save the one volume to use as its own file (for instance with nibabel's slicer)."
        )
    shape = tuple(sizes[:3])
    voxels = sizes[0] * sizes[1] * sizes[2]
    if voxels > max_voxels:
        raise InputError(
            f"{path}: the header claims {shape[0]} x {shape[1]} x {shape[2]} voxels, above the "
            f"limit of {max_voxels}. Its header is damaged, or resample the scan to fewer voxels."
        )
    dtype = _dtype(path, header)
    offset, least = float(header["vox_offset"]), 352 if header["sizeof_hdr"] == 348 else 544
    if offset == 0:
        offset = least
    if not (np.isfinite(offset) and least <= offset < 1e8):
        raise InputError(
            f"{path}: the header places the voxels at byte {offset:g}. It is damaged; {_NEW_EXPORT}"
        )
    slope, intercept = _scaling(path, header)
    affine = _affine(path, header, assume_orientation)
    return _Layout(shape, dtype, int(offset), slope, intercept, affine)


def _dtype(path: Path, header: nib.Nifti1Header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError):
        dtype = None
    if dtype is None or dtype.fields or dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = "colour" if dtype is not None and dtype.fields else f"{dtype or 'unknown'}"
        raise InputError(
            f"{path}: its voxels are of {name} type (code {int(header['datatype'])}), not one "
            "number each. Save one integer or floating-point channel."
        )
    return dtype


def _scaling(path: Path, header: nib.Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; (1, 0) where the header has none (slope 0 or NaN, as nibabel writes)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or (np.isnan(slope) and (np.isnan(intercept) or intercept == 0)):
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        warnings.warn(
            f"{path}: scl_slope {slope} and scl_inter {intercept} are not usable and are ignored; "
            "check that the voxels are HU.",
            stacklevel=6,
        )
        return 1.0, 0.0
    return slope, intercept


def _affine(path: Path, header: nib.Nifti1Header, assume_orientation: str | None) -> np.ndarray:
    """Voxel (i, j, k) to RAS+ mm: sform, else qform, else the orientation the caller states."""
    pixdim = np.array(header["pixdim"][1:4], dtype=np.float64)
    if int(header["sform_code"]) > 0:
        affine, name = header.get_sform(), "sform"
    else:
        if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
            raise InputError(
                f"{path}: voxel sizes (pixdim) {pixdim.tolist()} are not positive numbers. "
                "Write the true spacing into the header with nibabel, or export the scan again."
            )
        if int(header["qform_code"]) > 0:
            name = "qform"
            try:
                affine = header.get_qform()
            except (ValueError, nib.spatialimages.HeaderDataError):
                affine = np.full((4, 4), np.nan)
        elif assume_orientation is not None:
            shape = tuple(int(n) for n in header["dim"][1:4])
            affine = assumed_affine(pixdim, shape, assume_orientation)
            name = "assumed orientation"
        else:
            raise InputError(
                f"{path}: says nothing about its orientation (no sform, no qform). State it: "
                "assume_orientation=RAI (--assume-orientation RAI) if its axes run from right, "
                "anterior and inferior."
            )
    affine = np.array(affine, dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    return checked_affine(path, affine, name)


def checked_affine(path: Path, affine: np.ndarray, name: str) -> np.ndarray:
    """The affine, refused when it is not finite, singular or implausible."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    sane = np.isfinite(affine).all() and (sizes > 0).all()
    if sane and abs(np.linalg.det(affine[:3, :3])) < 0.05 * sizes.prod():
        sane = False
    if not sane:
        raise InputError(
            f"{path}: its {name} is zero, singular or not finite. Set a correct one with nibabel "
            "(image.set_sform), or export the scan again."
        )
    if sizes.min() < 0.01 or sizes.max() > 100:
        raise InputError(
            f"{path}: its {name} gives voxels of {np.round(sizes, 4).tolist()} mm. "
            "Correct the spacing or its unit (xyzt_units) in the header."
        )
    return affine


def assumed_affine(spacing: Sequence[float], shape: Sequence[int], orientation: str) -> np.ndarray:
    """Affine of axes (i, j, k) that come from `orientation`, with the centre at the origin."""
    from nibabel.orientations import axcodes2ornt

    opposite = dict(zip("RLAPIS", "LRPASI", strict=True))
    target = axcodes2ornt([opposite[letter] for letter in orientation.upper()])
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[target[:, 0].astype(int), [0, 1, 2]] = target[:, 1] * np.array(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
