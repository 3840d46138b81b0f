"""What a label map says about a CT: volumes, attenuation, positions and lesions, from voxels.

World coordinates are RAS+ mm: x grows to the patient's right, y to the front, z to the head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from photon.errors import InputError
from photon.questions.label_names import (
    COMPOSITES,
    GROUPS,
    is_finding,
    lesion_organ,
    lesion_word,
    split_side,
)

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Region:
    """Voxels of a set of label ids. `centre` RAS mm; `low`, `high`: extent along z in mm.

    `width`: extent along x in mm.  `cut`: touches the border of the volume, so may go on beyond it.
    """

    voxels: int
    volume_ml: float
    hu_sum: float
    centre: tuple[float, float, float]
    low: float
    high: float
    width: float
    cut: bool

    @property
    def mean_hu(self) -> float:
        return self.hu_sum / self.voxels

    @property
    def diameter_mm(self) -> float:
        """Of the ball of the same volume."""
        return (6000.0 * self.volume_ml / math.pi) ** (1 / 3)


@dataclass(frozen=True)
class Structure:
    """One organ: `ids` are its own labels, `lesion_ids` those of its lesions.

    `seen`: those of both that occur.  `whole` measures organ and lesions, `tissue` the organ
    without its lesions, `lesions` one region per connected lesion (26 neighbours).  A region is
    None where no voxel carries the ids.
    """

    name: str
    ids: tuple[int, ...]
    lesion_ids: tuple[int, ...]
    seen: tuple[int, ...]
    whole: Region | None
    tissue: Region | None
    lesions: tuple[Region, ...] = ()
    lesion_word: str = "lesion"

    @property
    def lesions_certain(self) -> bool:
        """False where a component of a few voxels leaves open whether it is a lesion."""
        return all(lesion.voxels >= 10 for lesion in self.lesions)

    @property
    def diameters(self) -> tuple[float, ...]:
        """Of its lesions, in mm."""
        return tuple(lesion.diameter_mm for lesion in self.lesions)


@dataclass(frozen=True)
class Scene:
    """All structures of a label map by name; `findings` hold effusions and the like.

    `groups`: organs taken together (both kidneys), only where both sides or two members are there.
    """

    structures: dict[str, Structure]
    findings: dict[str, Structure]
    groups: dict[str, Structure]
    voxel_ml: float
    voxel_mm: float
    midline: float

    def present(self, name: str) -> bool | None:
        """True, False, or None where there are too few voxels to call (below 10 or 0.1 mL)."""
        region = (self.structures.get(name) or self.findings[name]).whole
        if region is None:
            return False
        return True if region.voxels >= 10 and region.volume_ml >= 0.1 else None


class _Measurer:
    """Caches the bounding box and the sums of each id, so that composites cost nothing extra."""

    def __init__(self, hu: np.ndarray, labels: np.ndarray, affine: np.ndarray):
        self.hu, self.labels, self.affine = hu, labels, np.asarray(affine, dtype=float)
        self.voxel_mm3 = abs(float(np.linalg.det(self.affine[:3, :3])))
        self.boxes = ndimage.find_objects(labels)
        self.known: dict[int, tuple | None] = {}

    def world(self, d: float, h: float, w: float) -> np.ndarray:
        return (self.affine @ np.array([w, h, d, 1.0]))[:3]

    def sums(self, label: int) -> tuple | None:
        """(voxels, HU sum, index sums [3], first index [3], last index [3]) of one id."""
        if label not in self.known:
            box = self.boxes[label - 1] if 0 < label <= len(self.boxes) else None
            self.known[label] = None if box is None else self._sums(self.labels[box] == label, box)
        return self.known[label]

    def _sums(self, mask: np.ndarray, box: tuple[slice, ...]) -> tuple:
        count = int(np.count_nonzero(mask))
        plane = mask.sum(axis=0, dtype=np.int64)
        profiles = (mask.sum(axis=(1, 2), dtype=np.int64), plane.sum(axis=1), plane.sum(axis=0))
        index = np.array(
            [
                float((profile * np.arange(s.start, s.stop)).sum())
                for profile, s in zip(profiles, box, strict=True)
            ]
        )
        hu_sum = float(self.hu[box][mask].sum(dtype=np.float64))
        first, last = [s.start for s in box], [s.stop - 1 for s in box]
        return count, hu_sum, index, np.array(first), np.array(last)

    def region(self, ids: tuple[int, ...]) -> Region | None:
        return self._region([s for s in map(self.sums, ids) if s is not None])

    def _region(self, parts: list[tuple]) -> Region | None:
        if not parts:
            return None
        count = sum(p[0] for p in parts)
        first = np.min([p[3] for p in parts], axis=0)
        last = np.max([p[4] for p in parts], axis=0)
        centre = self.world(*(np.sum([p[2] for p in parts], axis=0) / count))
        corners = np.array(
            [
                self.world(d, h, w)
                for d in (first[0], last[0])
                for h in (first[1], last[1])
                for w in (first[2], last[2])
            ]
        )
        cut = bool((first == 0).any() or (last == np.array(self.labels.shape) - 1).any())
        return Region(
            voxels=count,
            volume_ml=count * self.voxel_mm3 / 1000.0,
            hu_sum=float(sum(p[1] for p in parts)),
            centre=tuple(float(x) for x in centre),
            low=float(corners[:, 2].min()),
            high=float(corners[:, 2].max()),
            width=float(np.ptp(corners[:, 0])),
            cut=cut,
        )

    def structure(
        self,
        name: str,
        ids: tuple[int, ...],
        lesion_ids: tuple[int, ...],
        names: Mapping[int, str],
    ) -> Structure:
        return Structure(
            name,
            ids,
            lesion_ids,
            seen=tuple(label for label in ids + lesion_ids if self.sums(label) is not None),
            whole=self.region(ids + lesion_ids),
            tissue=self.region(ids),
            lesions=self.components(lesion_ids),
            lesion_word=lesion_word([names[label] for label in lesion_ids]),
        )

    def components(self, ids: tuple[int, ...]) -> tuple[Region, ...]:
        """One region per connected component of the ids together."""
        boxes = [self.boxes[i - 1] for i in ids if i <= len(self.boxes) and self.boxes[i - 1]]
        if not boxes:
            return ()
        box = tuple(
            slice(min(b[a].start for b in boxes), max(b[a].stop for b in boxes)) for a in range(3)
        )
        parts, count = ndimage.label(np.isin(self.labels[box], ids), structure=_TOUCHING)
        regions = []
        for number, inner in enumerate(ndimage.find_objects(parts, max_label=count), start=1):
            place = tuple(
                slice(o.start + i.start, o.start + i.stop) for o, i in zip(box, inner, strict=True)
            )
            region = self._region([self._sums(parts[inner] == number, place)])
            assert region is not None
            regions.append(region)
        return tuple(regions)


def measure(
    hu: np.ndarray, labels: np.ndarray, affine: np.ndarray, names: Mapping[int, str]
) -> Scene:
    """Measure every named structure (and each side of a lung from its lobes).

    hu: any dtype [D,H,W], labels: unsigned integers [D,H,W], affine: (w,h,d,1) to RAS+ mm.  Ids
    without a name are ignored.  Raises InputError when shapes differ or the affine is singular.
    """
    if hu.shape != labels.shape or hu.ndim != 3:
        raise InputError(
            f"the CT has shape {hu.shape} and the label map {labels.shape}; both must lie on one "
            "grid of three axes, so resample the label map to the CT"
        )
    if not abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3])) > 0:
        raise InputError("the affine is singular; write the voxel size into the file's header")
    if not np.issubdtype(labels.dtype, np.integer):
        labels = labels.astype(np.int32)
    tool = _Measurer(hu, labels, affine)
    lesions: dict[str, list[int]] = {}
    for label, name in names.items():
        if organ := lesion_organ(name):
            lesions.setdefault(organ, []).append(label)

    structures, findings = {}, {}
    for name, ids in _named(names).items():
        made = tool.structure(name, ids, tuple(lesions.get(name, ())), names)
        (findings if is_finding(name) else structures)[name] = made
    scene = Scene(
        structures,
        findings,
        {},
        voxel_ml=tool.voxel_mm3 / 1000.0,
        voxel_mm=float(np.linalg.norm(tool.affine[:3, :3], axis=0).max()),
        midline=_midline(tool, names),
    )
    for group, members in _together(scene).items():
        ids = tuple(dict.fromkeys(i for member in members for i in member.ids))
        lesion_ids = tuple(i for member in members for i in member.lesion_ids)
        scene.groups[group] = tool.structure(group, ids, lesion_ids, names)
    return scene


def _together(scene: Scene) -> dict[str, list[Structure]]:
    """Members of every group that is surely there: two members, of a pair one on each side."""
    groups = {}
    for group, pattern in GROUPS.items():
        members = [s for name, s in scene.structures.items() if re.fullmatch(pattern, name)]
        sure = [s for s in members if scene.present(s.name)]
        sides = {split_side(s.name)[1] for s in sure}
        if len(sure) >= 2 and sides in ({"left", "right"}, {None}):
            groups[group] = members
    return groups


def _named(names: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    groups = {name: (label,) for label, name in names.items() if not lesion_organ(name)}
    for composite, pattern in COMPOSITES.items():
        ids = tuple(label for label, name in names.items() if re.fullmatch(pattern, name))
        if len(ids) > 1 and composite not in groups:
            groups[composite] = ids
    return groups


def _midline(tool: _Measurer, names: Mapping[int, str]) -> float:
    """x (RAS mm) of the patient's middle: the spine's where labelled, else that of the grid."""
    pattern = re.compile(r"spine|spinal_cord|vertebrae_\w+")
    spine = tuple(label for label, name in names.items() if pattern.fullmatch(name))
    region = tool.region(spine)
    if region is not None:
        return region.centre[0]
    return float(tool.world(*((np.array(tool.labels.shape) - 1) / 2))[0])
