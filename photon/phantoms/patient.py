"""One patient of a phantom data set: paint, write, measure, and list what can be asked."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from isal import igzip

from photon.files import write_bytes
from photon.phantoms.captions import reports
from photon.phantoms.layout import AORTA, NAMES, ORGANS, SPINE, PhantomConfig
from photon.phantoms.phantom import make_patient, make_phantom
from photon.questions.candidates import Candidate, Reference
from photon.questions.change import change_candidates
from photon.questions.from_masks import find_candidates
from photon.questions.measure import measure

# Aorta and spine are context, the same in every phantom.
QUESTION_NAMES = {label: name for label, name in NAMES.items() if label not in (AORTA, SPINE)}
# Kinds whose answer anatomy fixes: a model that never looks would know them.
CONSTANT_KINDS = frozenset(
    {"side", "relative_side", "relative_level", "larger", "denser", "visible_volume"}
    | {f"lesion_density:{organ.name}" for organ in ORGANS if len(organ.lesion_hu) == 1}
)


@dataclass(frozen=True)
class Patient:
    """What to write: a name (of the files too), a seed, one scan or two.

    reference: limits of the classes, the same for all scanners; n_reports: captions of each scan.
    """

    root: Path
    name: str
    split: str
    seed: int
    follow_up: bool
    config: PhantomConfig
    reference: Reference
    n_reports: int


@dataclass(frozen=True)
class Asked:
    """Paths of the scans (one or both) that questions are about, and all that can be asked."""

    volumes: tuple[str, ...]
    labels: tuple[str, ...]
    candidates: list[Candidate]


@dataclass(frozen=True)
class Written:
    """What a patient yields; digests are those of the uncompressed files, by path."""

    asked: list[Asked]
    reports: list[dict]
    digests: dict[str, str]


def write_patient(patient: Patient) -> Written:
    """Write the files that are not there yet, and return what they answer."""
    make = make_patient if patient.follow_up else lambda *about: (make_phantom(*about),)
    scenes, asked, told, digests = [], [], [], {}
    for name, phantom in zip(
        (patient.name, f"{patient.name}_follow_up"), make(patient.seed, patient.config)
    ):
        ct, labels = f"ct/{name}.nii.gz", f"labels/{name}.nii.gz"
        orientation = patient.config.orientation
        for path, array in ((ct, phantom.array), (labels, phantom.labels)):
            file = patient.root / path
            digests[path] = write_nifti(file, array, phantom.affine, orientation, "leave")
        scene = measure(phantom.array, phantom.labels, phantom.affine, QUESTION_NAMES)
        scenes.append(scene)
        rng = np.random.default_rng(zlib.crc32(f"{patient.seed}/{name}".encode()))
        asked.append(
            Asked((ct,), (labels,), askable(find_candidates(scene, patient.reference, rng)))
        )
        facts = {"facts": phantom.facts, "split": patient.split}
        where = {"volume": ct, "labels": labels, "patient": patient.name, "extra": facts}
        seed = zlib.crc32(name.encode())
        told += reports(scene, patient.reference, patient.n_reports, seed, prefix=name, **where)
    if patient.follow_up:
        first, second = asked
        both = first.volumes + second.volumes, first.labels + second.labels
        asked.append(Asked(*both, askable(change_candidates(*scenes))))
    return Written(asked, [report.to_row() for report in told], digests)


def askable(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Without those that a model knows that never looks."""
    return [c for c in candidates if not {c.kind, f"{c.kind}:{c.organ}"} & CONSTANT_KINDS]


def write_nifti(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray,
    orientation: str = "LPS",
    existing: Literal["replace", "leave"] = "replace",
) -> str:
    """Array [D,H,W] in LPS to a gzipped NIfTI whose axes run along `orientation`.

    `affine` maps (w,h,d,1) to RAS+ mm. Written whole or not at all, at isa-l level 0 (fast); the
    same input gives the same bytes. Returns a BLAKE2 hash of the uncompressed file.
    """
    image = nib.Nifti1Image(array.transpose(2, 1, 0), affine)
    axes = nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(orientation)
    image = image.as_reoriented(nib.orientations.ornt_transform(*axes))
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    if existing == "replace" or not path.exists():
        write_bytes(path, igzip.compress(content, compresslevel=0, mtime=0))
    return hashlib.blake2b(content, digest_size=16).hexdigest()
