"""What an export was trained on, and how a scan or a question is unlike it.

`photon.json` keeps `provenance.trained_on`, so that whoever asks can be told in a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from photon.questions.record import Record
from photon.volume.reader import implausible
from photon.weights.checkpoints import read_spec

AIR = -900.0  # HU
MORE_AIR = 0.15  # share of voxels beyond the airiest scan of training
WORDS = 3000  # of the training's questions, the commonest
HU_BELOW = -500.0  # some voxel of a CT lies below
_WORD = re.compile(r"[^\W\d_]+")


def describe_training(
    records: Sequence[Record], volumes: Iterable[np.ndarray], generated: bool
) -> dict[str, Any]:
    """Plain values for photon.json. volumes: prepared [D, H, W], some of the training's."""
    counts: dict[str, int] = {}
    for record in records:
        for word in words_of(record.question):
            counts[word] = counts.get(word, 0) + 1
    air, ct = [], []
    for hu in volumes:
        sample = np.asarray(hu)[::2, ::4, ::4]
        air.append(float((sample <= AIR).mean()))
        ct.append(bool(sample.min() < HU_BELOW))
    return {
        "generated": generated,
        "questions": len(records),
        "volumes": len({volume for record in records for volume in record.volumes}),
        "ct": bool(ct) and all(ct),
        "air": [round(min(air), 4), round(max(air), 4)] if air else None,
        "words": sorted(sorted(counts, key=counts.get, reverse=True)[:WORDS]),
    }


def trained_on(export: str | Path) -> dict[str, Any] | None:
    """What `describe_training` said when an export was written; None where nothing did."""
    return ((read_spec(Path(export)) or {}).get("provenance") or {}).get("trained_on")


def unlike_scan(known: Mapping[str, Any] | None, hu: np.ndarray) -> list[str]:
    """Lines on how a prepared scan [D, H, W] is unlike those of training; empty where it is not."""
    if known is None:
        return []
    lines = []
    if known["generated"]:
        lines.append(
            "this model was trained on generated phantoms only: about a real scan its answers mean "
            "nothing"
        )
    if known["ct"]:
        lines += _unlike_ct(np.asarray(hu)[::2, ::2, ::2])
    share = float((np.asarray(hu)[::2, ::4, ::4] <= AIR).mean())
    if known["air"] and known["ct"] and share > min(known["air"][1] + MORE_AIR, 0.99):
        lines.append(
            f"{share:.0%} of what the model sees of this scan is air or padding, at most "
            f"{known['air'][1]:.0%} in training: its field of view is another"
        )
    return lines


def _unlike_ct(sample: np.ndarray) -> list[str]:
    inside = sample[sample > -1000]  # padding of any scan
    if not inside.size:
        return ["the scan is empty: every voxel is air or padding"]
    if inside.min() >= 0 and len(np.unique(inside)) <= 256:
        return [
            "this is no CT but looks like a label map: whole numbers from 0 on, and few of them"
        ]
    problem = implausible(inside[: 10**6].reshape(1, 1, -1))
    return [f"the model knows CTs and this does not look like one: {problem}"] if problem else []


def unlike_question(known: Mapping[str, Any] | None, question: str) -> list[str]:
    """A line that names the words which no question of training had."""
    if known is None or not known["words"]:
        return []
    vocabulary = set(known["words"])
    new = [word for word in dict.fromkeys(words_of(question)) if word not in vocabulary]
    return [f"no question of the training had the words: {', '.join(new[:8])}"] if new else []


def words_of(text: str) -> list[str]:
    """Its words in lower case, without numbers."""
    return _WORD.findall(text.lower())
