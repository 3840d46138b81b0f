"""What pruning keeps of organs on a benchmark's questions (Tables 11 and 12 of the paper).

Needs label maps of the volumes (a folder of TotalSegmentator's results, say); the paper's own are
"pre-trained segmentation models" without a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from photon.benchmarks.judging import Row, Scored
from photon.errors import InputError
from photon.evaluation.intervals import mean_of, measure_of
from photon.evaluation.overlap import Mask, kept_mask, organ_dissimilarity
from photon.questions.label_names import TOTALSEGMENTATOR
from photon.questions.record import Record

# Organs of Table 11: words of a question about one, and its names in TotalSegmentator's table. The
# paper does not say which questions it counts as about the lung; findings named after the lung do.
WORDS = {
    "lung": r"lungs?|pulmonary|(?:upper|middle|lower) lobes?",
    "liver": r"liver|hepatic",
    "spleen": r"spleen|splenic",
    "kidney": r"kidneys?|renal",
}
LABELS = {
    "lung": r"lung_\w+",
    "liver": r"liver",
    "spleen": r"spleen",
    "kidney": r"kidney_(?:left|right)",
}
_PATTERNS = {organ: re.compile(rf"\b(?:{words})\b", re.I) for organ, words in WORDS.items()}
_IDS = {
    organ: tuple(i for i, name in TOTALSEGMENTATOR.items() if re.fullmatch(pattern, name))
    for organ, pattern in LABELS.items()
}
_SUFFIXES = (".nii.gz", ".nii", ".npy")


def organ_of(row: Row) -> str | None:
    """The one organ of Table 11 that a question names, in its text or subtask; None otherwise."""
    text = f"{str(row.get('question') or '').split(chr(10))[0]} {row.get('subtask') or ''}"
    named = [organ for organ, pattern in _PATTERNS.items() if pattern.search(text)]
    return named[0] if len(named) == 1 else None


def attach_segmentations(records: Sequence[Record], folder: str | Path, root: Path) -> list[Record]:
    """Records about one organ with a label map of their volume and the organ's ids as evidence.

    A map lies in `folder` under the volume's own path below `root`, its file name, or its name with
    _seg before the suffix. Records that have a map of their own keep it. InputError where no volume
    has a map.
    """
    folder = Path(folder).resolve()
    known: dict[str, str | None] = {}
    out = []
    for record in records:
        organ = organ_of({"question": record.question, "subtask": record.subtask})
        if record.labels is None and organ is not None and not record.more_volumes:
            if record.volume not in known:
                known[record.volume] = _find(folder, record.volume)
            if known[record.volume] is not None:
                record = replace(
                    record, labels=known[record.volume], evidence=_IDS[organ], organ=organ
                )
        out.append(record)
    if not any(known.values()):
        raise InputError(
            f"evaluation.segmentations={folder}: no label map for any volume that a question about "
            f"{', '.join(WORDS)} has. Name maps like the volumes ({root}), or NAME_seg.nii.gz."
        )
    return out


def _find(folder: Path, volume: str) -> str | None:
    name = Path(volume).name
    stem = next((name[: -len(s)] for s in _SUFFIXES if name.endswith(s)), name)
    for candidate in (volume, name, f"{stem}.nii.gz", f"{stem}_seg.nii.gz"):
        if (folder / candidate).is_file():
            return str(folder / candidate)
    return None


def add_organs(scored: Scored, rows: Sequence[Row], tasks: Sequence[str]) -> None:
    """Add Tables 11 and 12: kept tokens of lung questions by task, dissimilarity, lung coverage.

    tasks: of each row, as in Table 1. Coverage is the share of the tokens touched by the organ that
    were kept; it needs label maps. Table 11 counts all kept tokens of a lung question.
    """
    lung = [i for i, row in enumerate(rows) if organ_of(row) == "lung"]
    for task in dict.fromkeys(tasks):
        kept = [
            rows[i] for i in lung if tasks[i] == task and rows[i].get("kept_tokens") is not None
        ]
        if kept:
            counts = [float(r["kept_tokens"]) for r in kept]
            scored.measures["Avg. retained lung tokens", task] = mean_of(kept, counts, share=False)
    covered = [rows[i] for i in lung if rows[i].get("coverage") is not None]
    if covered:
        shares = np.array([float(r["coverage"]) for r in covered])
        sizes = np.array([float(r["organ_tokens"]) for r in covered])
        whole = measure_of(covered, np.stack([shares * sizes, sizes], axis=-1))
        scored.measures["Lung coverage", "Global coverage"] = whole
        by_volume = mean_of(covered, shares, [str(r["volume"]) for r in covered])
        scored.measures["Lung coverage", "Mean per volume coverage"] = by_volume
    _add_dissimilarity(scored, rows)


def _add_dissimilarity(scored: Scored, rows: Sequence[Row]) -> None:
    """Jaccard dissimilarity of the kept tokens of two organs' questions on one volume."""
    masks = []
    for row in rows:
        organ = organ_of(row)
        if organ is not None and row.get("kept_mask") and row.get("visual_tokens"):
            masks.append(Mask(str(row["volume"]), organ, kept_mask(row)))
    for pair, found in organ_dissimilarity(masks).items():
        if pair[0] != pair[1]:
            # One value for each pair of organs: the mean over volumes is its only statistic.
            name = " vs ".join(pair)
            scored.measures["Dissimilarity", name] = mean_of([{"id": name}], [found.mean])
            scored.notes.append(
                f"Dissimilarity {name}: {found.pairs} pairs on {found.volumes} volumes; random "
                f"masks of these sizes would have {found.random:.4f}"
            )
