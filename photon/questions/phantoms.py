"""Phantom data sets on disk: CTs, label maps, questions and reports, written in parallel.

ROOT/ct/NAME.nii.gz, ROOT/labels/NAME.nii.gz, ROOT/{train,val,test}.jsonl (questions),
ROOT/{split}_reports.jsonl (captions, for Phase 1) and ROOT/manifest.json, which is
written last: a second call with the same configuration finds it and returns at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from photon.errors import InputError
from photon.questions import templates
from photon.questions.captions import reports
from photon.questions.from_masks import FORMS, questions_from_scene
from photon.questions.measure import Scene, measure
from photon.questions.record import Record, read_records, write_records
from photon.volume.phantom import make_phantom
from photon.volume.phantom_layout import AORTA, NAMES, ORGANS, SPINE, PhantomConfig

VERSION = 3
# Aorta and spine are context, the same in every phantom.
QUESTION_NAMES = {label: name for label, name in NAMES.items() if label not in (AORTA, SPINE)}
# Kinds whose answer anatomy fixes: a model that never looks would know them.
CONSTANT_KINDS = frozenset(
    {"side", "relative_side", "relative_level", "larger", "denser", "visible_volume"}
    | {f"lesion_density:{organ.name}" for organ in ORGANS if len(organ.lesion_hu) == 1}
)


@dataclass(frozen=True)
class PhantomDataset:
    """What `write_phantom_dataset` writes; its hash names a data set's content."""

    n_train: int = 400
    n_val: int = 32
    n_test: int = 64
    seed: int = 0
    questions_per_volume: int = 24
    reports: int = 3
    forms: tuple[str, ...] = FORMS
    subtasks: tuple[str, ...] = templates.SUBTASKS
    numeric: float = 0.15
    phantom: PhantomConfig = field(default_factory=PhantomConfig)

    def fingerprint(self) -> str:
        plain = {**asdict(self), "phantom": self.phantom.to_dict(), "version": VERSION}
        text = json.dumps(plain, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def phantom_prevalence(config: PhantomConfig) -> dict[str, float]:
    """Share of phantoms that show each organ."""
    return {o.name: 1.0 - config.missing_probability * o.removable for o in ORGANS}


def phantom_questions(scene: Scene, spec: PhantomDataset, **where) -> list[Record]:
    """Questions of one phantom, as the data set asks them."""
    return questions_from_scene(
        scene,
        task="phantom",
        seed=spec.seed,
        per_volume=spec.questions_per_volume,
        forms=spec.forms,
        subtasks=spec.subtasks,
        numeric=spec.numeric,
        reference=spec.phantom.reference(),
        prevalence=phantom_prevalence(spec.phantom),
        exclude=CONSTANT_KINDS,
        **where,
    )


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Array [D,H,W] to a gzipped NIfTI at isa-l level 0 (fast), whole or not at all.

    The same input gives the same bytes; `affine` maps (w,h,d,1) to RAS+ mm.
    """
    image = nib.Nifti1Image(array.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(igzip.compress(image.to_bytes(), compresslevel=0, mtime=0))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_case(root: Path, spec: PhantomDataset, split: str, index: int) -> tuple[list, list]:
    """Write one phantom; returns its question rows and its report rows."""
    name = f"{split}_{index:05d}"
    ct, labels = f"ct/{name}.nii.gz", f"labels/{name}.nii.gz"
    offset = {"train": 0, "val": 10**7, "test": 2 * 10**7}[split]
    phantom = make_phantom(spec.seed * 10**8 + offset + index, spec.phantom)
    if not (root / ct).exists():
        write_nifti(root / ct, phantom.array, phantom.affine)
    if not (root / labels).exists():
        write_nifti(root / labels, phantom.labels, phantom.affine)
    scene = measure(phantom.array, phantom.labels, phantom.affine, QUESTION_NAMES)
    where = {"volume": ct, "labels_path": labels, "patient": name, "split": split}
    questions = [record.to_row() for record in phantom_questions(scene, spec, **where)]
    told = reports(
        scene,
        spec.phantom.reference(),
        spec.reports,
        seed=index,
        prefix=name,
        volume=ct,
        labels=labels,
        patient=name,
        extra={"facts": phantom.facts, "split": split},
    )
    return questions, [record.to_row() for record in told]


def _run(job: tuple) -> tuple[list, list]:
    return _write_case(*job)


def write_phantom_dataset(
    root: str | Path,
    n_train: int = 400,
    n_val: int = 32,
    n_test: int = 64,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options,
) -> dict:
    """Write (or find) a phantom data set and return its manifest.

    `options`: further fields of `PhantomDataset`.  `workers`: processes, default one per CPU.
    `progress(done, total)` is called after each volume.  Volumes already written are kept, so an
    interrupted call continues.  Raises InputError where `root` holds a data set of another
    configuration.
    """
    root = Path(root)
    spec = PhantomDataset(n_train, n_val, n_test, seed, **options)
    if (found := _find(root, spec)) is not None:
        return found
    for folder in ("ct", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _write_json(root / "building.json", {"fingerprint": spec.fingerprint()})
    jobs = [
        (root, spec, split, index)
        for split, count in (("train", n_train), ("val", n_val), ("test", n_test))
        for index in range(count)
    ]
    results = []
    for result in _parallel(jobs, workers):
        results.append(result)
        if progress:
            progress(len(results), len(jobs))
    counts = {}
    for split in ("train", "val", "test"):
        mine = [r for job, r in zip(jobs, results, strict=True) if job[2] == split]
        write_records(root / f"{split}_reports.jsonl", [row for _, told in mine for row in told])
        rows = [row for questions, _ in mine for row in questions]
        counts[split] = {"volumes": len(mine), "questions": write_records(
            root / f"{split}.jsonl", rows)}  # fmt: skip
    manifest = {
        "fingerprint": spec.fingerprint(),
        "spec": {**asdict(spec), "phantom": spec.phantom.to_dict()},
        "splits": counts,
        "names": {str(label): name for label, name in NAMES.items()},
        "reference": spec.phantom.reference(),
    }
    _write_json(root / "manifest.json", manifest)
    (root / "building.json").unlink(missing_ok=True)
    return json.loads((root / "manifest.json").read_text())


def _parallel(jobs: list[tuple], workers: int | None):
    if workers is None:  # a process takes seconds to start, a phantom milliseconds to make
        workers = min(os.cpu_count() or 1, 1 + len(jobs) // 50)
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(_run, jobs)
        return
    # Spawned, not forked: the caller may hold torch threads, which do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_run, jobs, chunksize=4)


def _find(root: Path, spec: PhantomDataset) -> dict | None:
    """The manifest of a finished data set of this very configuration."""
    for name in ("manifest.json", "building.json"):
        try:
            manifest = json.loads((root / name).read_text())
        except FileNotFoundError:
            continue
        except json.JSONDecodeError as error:
            raise InputError(f"{root / name} is not valid JSON ({error.msg}); delete it") from error
        if manifest.get("fingerprint") != spec.fingerprint():
            raise InputError(
                f"{root} holds a phantom data set of another configuration; name another folder, "
                "or delete this one"
            )
        return manifest if name == "manifest.json" else None
    return None


def _write_json(path: Path, content: dict) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1, default=list) + "\n")
    os.replace(temporary, path)


def load_split(root: str | Path, split: str, reports: bool = False) -> list[Record]:
    """Records of one split; raises InputError on a damaged file."""
    suffix = "_reports" if reports else ""
    return read_records(Path(root) / f"{split}{suffix}.jsonl", root=root, strict=True)[0]
