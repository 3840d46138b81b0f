"""Where questions and volumes come from, as Lightning reads them.

A data module is bound to a model first: the model says how volumes are prepared and batched.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from photon.annotations import Count, Seed, Whole
from photon.batch.dataset import Collate, VolumeQuestions
from photon.errors import InputError
from photon.evaluation.provenance import file_hash
from photon.model.photon import PhotonModel
from photon.questions.fill_store import BAD_CASES, prepare_all
from photon.questions.from_masks import Asking, generate_questions
from photon.questions.record import Record, read_records, write_records
from photon.volume.geometry import check_grid
from photon.volume.reader import read_labels, read_volume
from photon.volume.sources import Source, kind_of, locate
from photon.volume.store import VolumeStore
from photon.weights.trained_on import describe_training
from tasks.progress import say
from tasks.sampler import EpochBatches, end_in_steps, recount

Kind = Literal["questions", "reports"]
Sampling = Literal["volumes", "questions"]


class QuestionData(LightningDataModule):
    """Records of volumes, batched a few volumes at a time with a draw of their questions.

    Attributes:
        generated: whether its patients are invented.

    Args:
        root: folder that the records' paths are relative to.
        store: folder of prepared volumes.
        seed: of the order of volumes and the draw of questions.
        volumes_per_batch, questions_per_volume: size of a batch on each rank, at most.
        sampling: `volumes` makes an epoch every volume once, with a draw of its questions;
            `questions` every question once, those of a volume in groups.
        workers: loader processes; 0 loads in the training process.
    """

    generated = False

    def __init__(
        self,
        root: str | Path,
        store: str | Path,
        seed: Seed = 7,
        volumes_per_batch: Count = 1,
        questions_per_volume: Count = 16,
        sampling: Sampling = "volumes",
        workers: Whole = 0,
    ):
        super().__init__()
        for key in ("volumes_per_batch", "questions_per_volume"):
            if locals()[key] < 1:
                raise ValueError(f"dataset.{key}={locals()[key]}: must be at least 1")
        self.root = Path(root)
        self.store_root = Path(store)
        self.seed = seed
        self.volumes_per_batch = volumes_per_batch
        self.questions_per_volume = questions_per_volume
        self.sampling = sampling
        self.workers = workers
        self.model: PhotonModel | None = None
        self.kinds: Sequence[Kind] = ("questions",)
        self.collate: type[Collate] = Collate
        self._tried: set[Path] = set()  # files whose volumes this process has prepared

    def bind(
        self,
        model: PhotonModel,
        kinds: Sequence[Kind] = ("questions",),
        collate: type[Collate] = Collate,
    ) -> QuestionData:
        """Say whom the batches are for, which records they hold, and how items become a batch."""
        self.model, self.kinds, self.collate = model, kinds, collate
        return self

    @property
    def store(self) -> VolumeStore:
        """Prepared volumes of the bound model."""
        return VolumeStore(self.store_root, self.model.preparation)

    def path(self, split: str, kind: Kind = "questions") -> Path:
        """The JSONL file of a split. Raises InputError where there is none."""
        raise InputError(f"no file of {split} {kind}")

    def check(self, split: str) -> None:
        """Read a split that will be needed later, now.

        Raises InputError where it has no file, bad lines, a question without an answer, or names an
        image or video which the bound model cannot see.
        """
        records = self.records(split)
        if not records:
            raise InputError(f"{self.path(split)}: holds no question. Give the {split} questions.")
        for record in records:
            if not (record.answer or "").strip():
                raise InputError(
                    f"{self.path(split)}: question {record.id!r} has no answer, so that nothing "
                    "could be scored. Write one, or remove the line."
                )
        self.require_kinds(records)

    def records(self, split: str, kind: Kind = "questions") -> list[Record]:
        """All records of a split. Raises InputError that lists bad lines.

        Whether their volumes are there is seen when they are prepared, or does not matter.
        """
        return read_records(self.path(split, kind), strict=True)[0]

    def data_hash(self, split: str) -> str:
        """SHA-256 of the split's file."""
        return file_hash(self.path(split))

    def prepare_volumes(self, split: str, kind: Kind = "questions") -> list[Record]:
        """Fill the store with the volumes of a split; the records whose volumes can be read.

        A bad volume is reported and its questions are left out. Raises InputError when all are.
        """
        path = self.path(split, kind)
        records = self.records(split, kind)
        self.require_kinds(records)
        if path in self._tried:
            return self.readable(records)
        self._tried.add(path)
        if len(self._ready(records)) < len(records):
            prepare_all([str(path)], self.store_root, self.model.preparation, self.root)
        kept = self.readable(records)
        if len(kept) < len(records):
            volumes = {v for r in records for v in r.volumes}
            volumes -= {v for r in kept for v in r.volumes}
            out = f"{len(records) - len(kept)} of {len(records)} records"
            say(str(path), f"{out} left out with {len(volumes)} volumes that cannot be read")
        return kept

    def require_kinds(self, records: list[Record]) -> None:
        """Raise InputError that names the first image or video which the model cannot see.

        Its patches may see volumes only (`BatchBuilder.takes_images`): better known before the
        volumes are prepared than in the first batch.
        """
        builder, known = self.model.builder, set()
        if builder.takes_images:
            return
        for record in records:
            for place, source in enumerate(record.volumes):
                if source not in known and kind_of(locate(self.root, source)) != "volume":
                    builder.require_images(record, place)
                known.add(source)

    def readable(self, records: list[Record]) -> list[Record]:
        """The records whose volumes are in the store. Raises InputError when there are none."""
        kept = self._ready(records)
        if not kept:
            raise InputError(
                f"no volume or image of {self.root} could be prepared. The messages above and "
                f"{self.store_root / BAD_CASES} say why; correct the files or dataset.root."
            )
        return kept

    def _ready(self, records: list[Record]) -> list[Record]:
        """The records whose volumes, and label maps if they name any, are in the store."""
        store, root = self.store, self.root

        @cache
        def ready(volume: Source, labels: str | None) -> bool:
            return store.is_known(locate(root, volume), labels and root / labels)

        return [r for r in records if all(map(ready, r.volumes, r.label_maps))]

    @property
    def has_validation(self) -> bool:
        """Whether there is a split `val` to validate on while it trains."""
        return False

    def validation_items(self, volumes: int, questions: int) -> VolumeQuestions:
        """The first volumes of the split `val`, with at most so many questions each."""
        records = self.records("val")
        first = set(list(dict.fromkeys(record.volumes for record in records))[:volumes])
        return VolumeQuestions(
            [record for record in records if record.volumes in first],
            self.store,
            self.root,
            questions,
            with_labels=True,
            seed=self.seed,
        )

    def trained_on(self, sample: int = 24) -> dict[str, Any]:
        """What the export tells of its training, from some of the volumes (`unlike_scan`)."""
        records, store = self.records("train"), self.store
        sources = [locate(self.root, v) for v in dict.fromkeys(r.volume for r in records)]
        scans = [
            one for one in sources[:: max(1, len(sources) // sample)] if kind_of(one) == "volume"
        ]
        known = (store.load_hu(one) for one in scans if store.is_known(one))
        return describe_training(records, known, self.generated)

    def prepare_data(self) -> None:
        for kind in self.kinds:
            self.prepare_volumes("train", kind)

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        records = [record for kind in self.kinds for record in self.records("train", kind)]
        self.train_set = VolumeQuestions(
            self.readable(records),
            self.store,
            self.root,
            self.questions_per_volume,
            with_labels=self.collate.needs_labels,
            seed=self.seed,
            every=self.sampling == "questions",
        )
        self.train_batches = EpochBatches.of(
            self.trainer, len(self.train_set), self.volumes_per_batch, self.seed
        )
        end_in_steps(self.trainer, self.train_batches)

    @property
    def items_an_update(self) -> int:
        """Volumes (or parts of their questions) of an optimiser step, over all processes."""
        trainer = self.trainer
        return self.volumes_per_batch * trainer.world_size * trainer.accumulate_grad_batches

    def budget(self) -> str:
        """What an update of the training is made of, once it is set up."""
        most = self.items_an_update * self.questions_per_volume
        each = "every question once" if self.sampling == "questions" else "every volume once"
        return f"of at most {most} questions, {self.train_batches.steps:,} an epoch ({each})"

    def state_dict(self) -> dict[str, int]:
        return {"items_an_update": self.items_an_update}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises InputError where other processes would make other updates of the same data."""
        before, now = state["items_an_update"], self.items_an_update
        if before != now:
            raise InputError(
                f"an update had {before} volumes and has {now} now, with {self.trainer.world_size} "
                "process(es): set trainer.accumulate_grad_batches so that the number stays, or "
                "give this run a name of its own (name=...)"
            )

    def train_dataloader(self) -> DataLoader:
        recount(self.trainer, self.train_batches)
        return DataLoader(
            self.train_set,
            batch_sampler=self.train_batches,
            collate_fn=self.collate(self.model.builder, self.model.tokenizer, with_answer=True),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


class RecordData(QuestionData):
    """Your own JSONL files (docs/questions.md).

    Args:
        train, val, test: questions of each split, or None.
        reports: volume-report pairs of Phase 1.
        root: folder of the paths in them; None takes each file's own.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        reports: str | None = None,
        root: str | None = None,
        store: str | Path = "outputs/data/store",
        seed: Seed = 7,
        volumes_per_batch: Count = 1,
        questions_per_volume: Count = 16,
        sampling: Sampling = "volumes",
        workers: Whole = 0,
    ):
        files = {"train": train, "val": val, "test": test, "reports": reports}
        given = [Path(file).parent for file in files.values() if file]
        if root is None and len(set(given)) > 1:
            raise ValueError(
                "dataset.root is empty and the files lie in different folders "
                f"({', '.join(sorted(set(map(str, given))))}): set dataset.root"
            )
        folder = root if root is not None else (given[0] if given else ".")
        sizes = (volumes_per_batch, questions_per_volume, sampling, workers)
        super().__init__(folder, store, seed, *sizes)
        self.files = files

    @property
    def has_validation(self) -> bool:
        return self.files["val"] is not None

    def check(self, split: str) -> None:
        super().check(split)
        for other in ("train", "val"):
            if other != split and self.files[other] is not None:
                if same_content(self.path(other), self.path(split)):
                    raise InputError(
                        f"dataset.{other} and dataset.{split} are the same questions "
                        f"({self.path(other)}): give questions that no training saw"
                    )

    def path(self, split: str, kind: Kind = "questions") -> Path:
        key = split if kind == "questions" else "reports"
        if self.files[key] is None:
            raise InputError(f"dataset.{key} is empty: give the path of a .jsonl file")
        return Path(self.files[key])


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes; False where one is absent."""
    try:
        return file_hash(one) == file_hash(other)
    except OSError:
        return False


class LabelledCT(QuestionData):
    """One CT with its label map: questions are made from the two, and split by question.

    Args:
        ct, labels: paths of the scan and of its label map, with TotalSegmentator's ids.
        root: questions are written to a folder of their own below, one for each scan and setting.
        questions: how many to make, at most; every fourth is kept for the test.
    """

    def __init__(
        self,
        ct: str,
        labels: str,
        root: str | Path,
        store: str | Path,
        questions: Count = 64,
        seed: Seed = 7,
        volumes_per_batch: Count = 1,
        questions_per_volume: Count = 16,
        sampling: Sampling = "volumes",
        workers: Whole = 0,
    ):
        for file in (ct, labels):
            if not Path(file).is_file():
                raise InputError(f"{file}: no such file. Check dataset.ct and dataset.labels.")
        state = {
            os.path.abspath(f): (os.stat(f).st_size, os.stat(f).st_mtime) for f in (ct, labels)
        }
        digest = hashlib.sha256(json.dumps([state, questions, seed]).encode()).hexdigest()[:8]
        root = Path(root) / f"{Path(ct).name.split('.')[0]}-{digest}"
        sizes = (volumes_per_batch, questions_per_volume, sampling, workers)
        super().__init__(root, store, seed, *sizes)
        self.ct, self.labels, self.questions = ct, labels, questions

    def path(self, split: str, kind: Kind = "questions") -> Path:
        if kind != "questions" or split == "val":
            raise InputError("dataset=ct has train and test questions only: choose another dataset")
        path = self.root / f"{split}.jsonl"
        if not path.is_file():
            self._write()
        return path

    def _write(self) -> None:
        scan, mask = read_volume(self.ct), read_labels(self.labels)
        check_grid(mask, scan.grid, self.ct)
        self.root.mkdir(parents=True, exist_ok=True)
        records = generate_questions(
            scan.array,
            mask.array,
            scan.affine,
            volume=os.path.relpath(self.ct, self.root),
            labels=os.path.relpath(self.labels, self.root),
            patient=Path(self.ct).name.split(".")[0],
            seed=self.seed,
            asking=Asking(self.questions),
        )
        write_records(self.root / "test.jsonl", records[::4])
        write_records(self.root / "train.jsonl", [r for i, r in enumerate(records) if i % 4 != 0])
