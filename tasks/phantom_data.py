"""Phantoms as a data module: written where they are needed first, then read like any records."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from photon.annotations import Count, Fraction, Positive, Seed, Share, Whole
from photon.errors import InputError
from photon.phantoms.layout import PhantomConfig
from photon.phantoms.phantom_vqa import BALANCED, SPLITS, write_phantom_dataset
from tasks.datamodule import Kind, QuestionData, Sampling
from tasks.progress import bars, say


class PhantomData(QuestionData):
    """Procedural CTs with exact label maps, written once under `root` (docs/phantom_vqa.md).

    Args:
        n_train, n_val, n_test, n_ood: patients of each split; `test_ood` is of another scanner.
        follow_up: share of patients with a second scan.
        written, written_pair: questions written of a scan, and of a patient's two scans together;
            a batch draws `questions_per_volume` of either.
        reports: captions of each scan.
        numeric: share of the measurement questions that ask for a number.
        forms: of the questions: choice, free.
        prior: how much of the answers the question alone gives away, in [0, 1).
        large_lesion: mm of diameter from which on a lesion is large.
        phantom, ood: settings of the phantoms, and what `test_ood` has in their place
            (`PhantomConfig`).
    """

    generated = True

    def __init__(
        self,
        root: str | Path,
        store: str | Path,
        n_train: Count,
        n_test: Count,
        n_val: Whole = 0,
        n_ood: Whole = 0,
        follow_up: Share = 0.0,
        written: Count = 24,
        written_pair: Whole = 16,
        reports: Whole = 3,
        numeric: Share = 0.15,
        forms: Sequence[Literal["choice", "free"]] = ("choice", "free"),
        prior: Fraction = 0.0,
        large_lesion: Positive = 36.0,
        phantom: PhantomConfig | Mapping[str, object] | None = None,
        ood: PhantomConfig | Mapping[str, object] | None = None,
        seed: Seed = 7,
        volumes_per_batch: Count = 4,
        questions_per_volume: Count = 16,
        sampling: Sampling = "volumes",
        workers: Whole = 0,
    ):
        sizes = (volumes_per_batch, questions_per_volume, sampling, workers)
        super().__init__(root, store, seed, *sizes)
        self.spec = {
            "n_train": n_train,
            "n_val": n_val,
            "n_test": n_test,
            "n_ood": n_ood,
            "follow_up": follow_up,
            "questions_per_volume": written,
            "questions_per_pair": written_pair,
            "reports": reports,
            "numeric": numeric,
            "forms": tuple(forms),
            "prior": prior,
            "large_lesion": large_lesion,
            "phantom": dict(phantom or {}),
            "ood": dict(ood or {}),
        }

    @property
    def has_validation(self) -> bool:
        return self.spec["n_val"] > 0

    def path(self, split: str, kind: Kind = "questions") -> Path:
        if split not in SPLITS:
            raise InputError(f"phantoms have no split {split!r}: choose of {', '.join(SPLITS)}")
        if split == "test_ood" and not self.spec["n_ood"]:
            raise InputError("test_ood is empty: set dataset.n_ood")
        self._write()
        return self.root / (f"{split}.jsonl" if kind == "questions" else f"{split}_reports.jsonl")

    def _write(self) -> None:
        if (self.root / "manifest.json").is_file():
            write_phantom_dataset(self.root, seed=self.seed, **self.spec)
            return
        started = time.perf_counter()
        with bars() as progress:
            bar = progress.add_task("phantoms", total=None, figures="")
            manifest = write_phantom_dataset(
                self.root,
                seed=self.seed,
                progress=lambda done, n: progress.update(bar, completed=done, total=n),
                **self.spec,
            )
        count = sum(
            part["volumes"] for name, part in manifest["splits"].items() if name != BALANCED
        )
        say("phantoms", f"{count} volumes with label maps in {self.root}", started)
