"""Captions of a measured scene, one sentence an organ, and where the evidence of each one lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from photon.questions import templates
from photon.questions.candidates import Reference, hu_class, near, size_class
from photon.questions.label_names import display
from photon.questions.measure import Scene
from photon.questions.record import Record


@dataclass(frozen=True)
class Sentence:
    """What is said of a structure, and the label ids that tell it."""

    name: str
    said: str
    evidence: tuple[int, ...]


def describe(scene: Scene, reference: Reference) -> list[Sentence]:
    """Every organ's presence, size, attenuation and lesions, then the findings.

    A class that the voxels leave in doubt is left out; an organ without a reference is only named.
    """
    told = []
    for name, structure in scene.structures.items():
        if not scene.present(name):
            told.append(Sentence(name, "absent", ()))
            continue
        size, hu = size_class(structure, reference), hu_class(structure, reference)
        words = [size] if size else []
        words += [f"{hu} attenuation"] if hu else []
        count = len(structure.lesions)
        if structure.lesion_ids:
            words.append(f"{count or 'no'} {structure.lesion_word}{'s' * (count != 1)}")
        told.append(Sentence(name, ", ".join(words) or "visible", structure.seen))
    for name, finding in scene.findings.items():
        present = scene.present(name)
        where = finding.seen if present else near(scene, name)
        told.append(Sentence(name, "yes" if present else "no", where))
    return told


def caption(sentences: list[Sentence]) -> tuple[str, list[list]]:
    """The text of a caption, and [start, stop, label ids] of what each sentence says in it."""
    text, spans = "", []
    for sentence in sentences:
        text += f"{' ' if text else ''}{display(sentence.name)}: "
        spans.append([len(text), len(text) + len(sentence.said), list(sentence.evidence)])
        text += f"{sentence.said}."
    return text, spans


def reports(
    scene: Scene,
    reference: Reference,
    n: int,
    seed: int,
    *,
    prefix: str,
    extra: dict | None = None,
    **where,
) -> list[Record]:
    """`n` captions of one scene, the first in anatomical order and the others in orders of their
    own, so that nobody learns them by heart.

    `where`: volume, labels and patient of the records, whose ids begin with `prefix`; `spans` of
    `caption` are kept under that key.
    """
    sentences = describe(scene, reference)
    rng = np.random.default_rng(seed)
    records = []
    for index in range(n):
        order = rng.permutation(len(sentences)) if index else range(len(sentences))
        text, spans = caption([sentences[i] for i in order])
        request = templates.REPORT_REQUESTS[(seed + index) % len(templates.REPORT_REQUESTS)]
        records.append(
            Record(
                id=f"{prefix}-report-{index}",
                question=request,
                answer=text,
                task="report",
                subtask="report",
                evidence=tuple(i for s in scene.structures.values() for i in s.seen),
                extra={**(extra or {}), "spans": spans},
                **where,
            )
        )
    return records
