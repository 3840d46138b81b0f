"""PhantomVQA and other phantom data sets on disk: CTs, label maps, questions and reports.

ROOT/ct/NAME.nii.gz, ROOT/labels/NAME.nii.gz, ROOT/{split}.jsonl (questions), for splits with
volumes of their own ROOT/{split}_reports.jsonl (captions), and ROOT/manifest.json, which is written
last: a second call with the same configuration finds it and returns at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from photon.annotations import Count, Fraction, Positive, Share, Whole, check
from photon.errors import InputError
from photon.files import write_json
from photon.phantoms.language_prior import Thinning
from photon.phantoms.layout import NAMES, PhantomConfig
from photon.phantoms.patient import Asked, Patient, Written, write_patient
from photon.questions.candidates import Candidate
from photon.questions.from_masks import FORMS, Asking, Form
from photon.questions.record import Record, write_records

VERSION = 1  # of PhantomVQA: raise it with any change of the volumes or questions
SEED_OFFSET = {"train": 0, "val": 10**7, "test": 2 * 10**7, "test_ood": 3 * 10**7}
BALANCED = "test_balanced"  # the patients of `test`, asked without a language prior
SPLITS = (*SEED_OFFSET, BALANCED)


@dataclass(frozen=True)
class PhantomDataset:
    """What `write_phantom_dataset` writes; its hash names a data set's content.

    n_*: patients of each split. follow_up: share of patients with a second scan.
    questions_per_pair: of a patient's two scans together. prior: share of the answers that a
    question's words give away (see `Thinning`). large_lesion: mm of diameter from which on a lesion
    is of the stratum "large". ood: what differs in `test_ood`.
    """

    n_train: Whole = 400
    n_val: Whole = 32
    n_test: Whole = 64
    n_ood: Whole = 0
    seed: Whole = 0
    follow_up: Share = 0.0
    questions_per_volume: Count = 24
    questions_per_pair: Count = 16
    reports: Whole = 3
    forms: tuple[Form, ...] = FORMS
    numeric: Share = 0.15
    prior: Fraction = 0.0
    large_lesion: Positive = 36.0
    phantom: PhantomConfig = field(default_factory=PhantomConfig)
    ood: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "forms", tuple(self.forms))
        if not isinstance(self.phantom, PhantomConfig):
            object.__setattr__(self, "phantom", PhantomConfig(**self.phantom))
        check(self)
        self.asking(pair=False)
        replace(self.phantom, **self.ood)

    def asking(self, pair: bool) -> Asking:
        """How a scan, or a patient's two together, are asked about."""
        count = self.questions_per_pair if pair else self.questions_per_volume
        return Asking(count, self.forms, numeric=self.numeric, evenly=("kind",))

    def to_dict(self) -> dict:
        """Plain values, for the manifest and the fingerprint."""
        return {**asdict(self), "phantom": self.phantom.to_dict(), "version": VERSION}

    def fingerprint(self) -> str:
        text = json.dumps(self.to_dict(), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def patients(self, root: Path) -> Iterator[Patient]:
        """Every patient of every split that has volumes of its own."""
        for split, count in zip(SEED_OFFSET, (self.n_train, self.n_val, self.n_test, self.n_ood)):
            config = replace(self.phantom, **self.ood) if split == "test_ood" else self.phantom
            for index in range(count):
                yield Patient(
                    root,
                    f"{split}_{index:05d}",
                    split,
                    self.seed * 10**8 + SEED_OFFSET[split] + index,
                    int((index + 1) * self.follow_up) > int(index * self.follow_up),
                    config,
                    self.phantom.reference(),
                    self.reports,
                )


def patient_records(
    patient: Patient, asked: Asked, split: str, spec: PhantomDataset, thinning: Thinning
) -> list[Record]:
    """The questions of one scan, or of a pair, as a split asks them."""
    key = zlib.crc32("/".join((split, *asked.volumes)).encode())
    rng = np.random.default_rng(np.random.SeedSequence([spec.seed, key]))
    candidates = [
        candidate for candidate in asked.candidates if rng.random() < thinning.keep(candidate)
    ]
    name = Path(asked.volumes[-1]).name.removesuffix(".nii.gz")
    prefix = f"{name}-pair" if len(asked.volumes) > 1 else name
    prefix = f"balanced-{prefix}" if split == BALANCED else prefix
    where = {
        "volume": asked.volumes[0],
        "more_volumes": asked.volumes[1:],
        "labels": asked.labels[0],
        "more_labels": asked.labels[1:],
        "patient": patient.name,
        "task": "phantom",
    }

    def extra(candidate: Candidate) -> dict:
        return {"split": split, "stratum": stratum(candidate, spec.large_lesion)}

    asking = spec.asking(pair=len(asked.volumes) > 1)
    return asking.records(candidates, rng, prefix, extra, **where)


def stratum(candidate: Candidate, large: float) -> str:
    """small or large by the smallest lesion (mm) that the answer depends on; none without one."""
    if not candidate.diameters:
        return "none"
    return "large" if min(candidate.diameters) >= large else "small"


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
    `progress(done, total)` is called after each patient.  Volumes already written are kept, so an
    interrupted call continues.  Raises InputError where `root` holds a data set of another
    configuration.
    """
    root = Path(root)
    spec = PhantomDataset(n_train, n_val, n_test, seed=seed, **options)
    if (found := _find(root, spec)) is not None:
        return found
    for folder in ("ct", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    write_json(root / "building.json", {"fingerprint": spec.fingerprint()})
    patients = list(spec.patients(root))
    written = []
    for result in _parallel(patients, workers):
        written.append(result)
        if progress:
            progress(len(written), len(patients))
    splits = _write_splits(root, spec, patients, written)
    manifest = {
        "version": VERSION,
        "fingerprint": spec.fingerprint(),
        "content": _content(root, splits, written),
        "spec": spec.to_dict(),
        "splits": splits,
        "names": {str(label): name for label, name in NAMES.items()},
        "reference": spec.phantom.reference(),
    }
    write_json(root / "manifest.json", manifest)
    (root / "building.json").unlink(missing_ok=True)
    return json.loads((root / "manifest.json").read_text())


def _content(root: Path, splits: Mapping, written: list[Written]) -> str:
    """One hash of all volumes, label maps and questions."""
    digests = {path: d for w in written for path, d in w.digests.items()}
    for split in splits:
        digests[split] = hashlib.sha256((root / f"{split}.jsonl").read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _write_splits(
    root: Path, spec: PhantomDataset, patients: list[Patient], written: list[Written]
) -> dict:
    """Write the questions and reports of every split; counts of each."""
    usual = [
        candidate
        for patient, result in zip(patients, written, strict=True)
        if patient.split != "test_ood"
        for asked in result.asked
        for candidate in asked.candidates
    ]
    counts = {}
    for split in SPLITS:
        source = "test" if split == BALANCED else split
        mine = [(p, w) for p, w in zip(patients, written, strict=True) if p.split == source]
        if not mine and split not in ("train", "val", "test"):
            continue
        thinning = Thinning(usual, 0.0 if split == BALANCED else spec.prior, spec.seed)
        records = [
            record
            for patient, result in mine
            for asked in result.asked
            for record in patient_records(patient, asked, split, spec, thinning)
        ]
        counts[split] = {
            "patients": len(mine),
            "volumes": sum(len(w.digests) // 2 for _, w in mine),
            "questions": write_records(root / f"{split}.jsonl", records),
        }
        if split != BALANCED:
            told = [row for _, result in mine for row in result.reports]
            write_records(root / f"{split}_reports.jsonl", told)
    return counts


def _parallel(patients: list[Patient], workers: int | None) -> Iterator[Written]:
    if workers is None:  # a process takes seconds to start, a phantom milliseconds to make
        workers = min(os.cpu_count() or 1, 1 + len(patients) // 50)
    workers = min(workers, len(patients))
    if workers <= 1:
        yield from map(write_patient, patients)
        return
    # Spawned, not forked: the caller may hold torch threads, which do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write_patient, patients, chunksize=4)


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
