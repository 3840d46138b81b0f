"""Scene -> every question that the voxels answer without doubt (`Candidate`), before any is chosen.

Margins keep ambiguous cases out: classes close to a limit of their range, sides that differ by less
than 10 % in volume or 20 HU, positions that differ by less than two voxels, organs or lesions of a
few voxels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from photon.questions import templates as words
from photon.questions.label_names import (
    FAMILIES,
    display,
    in_family,
    plural,
    split_side,
)
from photon.questions.measure import Scene, Structure

Reference = Mapping[str, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True)
class Candidate:
    """One answerable question.

    `options` holds the answer and its distractors.  `value`, `unit`: of numeric answers.
    `answer_class`: what balancing counts (the answer, or "number").  `diameters`: mm of the lesions
    that the answer depends on.
    """

    kind: str
    organ: str
    words: dict[str, str]
    answer: str
    options: tuple[str, ...]
    evidence: tuple[int, ...]
    value: float | None = None
    unit: str | None = None
    diameters: tuple[float, ...] = ()
    extra: dict = field(default_factory=dict)

    @property
    def answer_class(self) -> str:
        return "number" if self.value is not None else self.answer


def organs(scene: Scene) -> Iterator[Structure]:
    """Present structures that are not members of a family (ribs, vertebrae)."""
    for name, structure in scene.structures.items():
        if scene.present(name) and not in_family(name):
            yield structure


def pairs(group: Mapping[str, Structure]) -> Iterator[tuple[str, Structure, Structure]]:
    """(base name, left, right) of structures that come in two sides."""
    for name, left in group.items():
        base, side = split_side(name)
        right = group.get(f"{base}_right")
        # The lobes of the two lungs are not a pair: the left lung has no middle lobe.
        if side == "left" and right is not None and not in_family(name) and "_lobe" not in base:
            yield base, left, right


def existence_candidates(scene: Scene) -> Iterator[Candidate]:
    for name, structure in scene.structures.items():
        seen = scene.present(name)
        if seen is not None and not re.match(r"rib_", name):
            yield Candidate(
                "organ_present", name, {"x": display(name)}, "yes" if seen else "no",
                words.YES_NO, structure.seen if seen else (),
            )  # fmt: skip
        if seen and structure.lesion_ids and structure.lesions_certain:
            yield Candidate(
                "lesion_present", name, {"x": display(name), "w": structure.lesion_word},
                "yes" if structure.lesions else "no", words.YES_NO, structure.seen,
                diameters=structure.diameters,
            )  # fmt: skip
    for name, finding in scene.findings.items():
        seen = scene.present(name)
        if seen is not None:
            yield Candidate(
                "finding_present", name, {"x": display(name)}, "yes" if seen else "no",
                words.YES_NO, finding.seen if seen else near(scene, name),
            )  # fmt: skip


def near(scene: Scene, finding: str) -> tuple[int, ...]:
    """Where one looks for an absent effusion: the lung of its side."""
    lung = scene.structures.get(f"lung_{split_side(finding)[1]}")
    return lung.seen if lung else ()


def _classify(value: float, limits: tuple[float, float], margin: float) -> int | None:
    """0, 1 or 2: below, between, above the limits; None within the margin of one of them."""
    if any(abs(value - limit) < margin for limit in limits):
        return None
    return int(value > limits[0]) + int(value > limits[1])


def size_class(structure: Structure, reference: Reference) -> str | None:
    """small, normal or large where a reference volume is known and the organ is wholly inside."""
    limits = reference.get(structure.name, {}).get("volume_ml")
    if not limits or structure.whole is None or structure.whole.cut:
        return None
    index = _classify(structure.whole.volume_ml, limits, 0.05 * (limits[0] + limits[1]) / 2)
    return None if index is None else words.SIZE_CLASSES[index]


def hu_class(structure: Structure, reference: Reference) -> str | None:
    """low, normal or high where a reference attenuation is known; lesions do not count."""
    limits = reference.get(structure.name, {}).get("hu")
    if not limits or structure.tissue is None:
        return None
    index = _classify(structure.tissue.mean_hu, limits, 0.1 * (limits[1] - limits[0]))
    return None if index is None else words.HU_CLASSES[index]


def size_candidates(
    scene: Scene, reference: Reference, rng: np.random.Generator
) -> Iterator[Candidate]:
    for structure in (*organs(scene), *scene.groups.values()):
        name, whole, ids = structure.name, structure.whole, structure.seen
        text = {"x": display(name)}
        if answer := size_class(structure, reference):
            yield Candidate("size_class", name, text, answer, words.SIZE_CLASSES, ids)
        if len(structure.lesions) == 1 and structure.lesions_certain and name not in scene.groups:
            yield _diameter_candidate(structure, rng)
        assert whole is not None
        kind = "visible_volume" if whole.cut else "volume"
        value = round(whole.volume_ml, 0 if whole.volume_ml >= 10 else 1)
        factors = np.array((0.4, 0.55, 0.75, 1.35, 1.8, 2.4))
        options = _number_options(value, value * rng.permutation(factors)[:3], "mL")
        extra = {"cut": True} if whole.cut else {}
        yield Candidate(kind, name, text, f"{value:g} mL", options, ids, value, "mL", extra=extra)


def _diameter_candidate(structure: Structure, rng: np.random.Generator) -> Candidate:
    value, text = round(structure.diameters[0]), {"x": display(structure.name)}
    others = value * rng.permutation(np.array((0.5, 0.7, 1.4, 1.8)))[:3]
    return Candidate(
        "lesion_diameter", structure.name, {**text, "w": structure.lesion_word}, f"{value:g} mm",
        _number_options(value, others, "mm"), structure.seen, float(value), "mm",
        diameters=structure.diameters,
    )  # fmt: skip


def attenuation_candidates(
    scene: Scene, reference: Reference, rng: np.random.Generator
) -> Iterator[Candidate]:
    for structure in (*organs(scene), *scene.groups.values()):
        name, tissue, text = structure.name, structure.tissue, {"x": display(structure.name)}
        if tissue is None:
            continue
        own = tuple(label for label in structure.seen if label in structure.ids)
        if answer := hu_class(structure, reference):
            yield Candidate("hu_class", name, text, answer, words.HU_CLASSES, own)
        value = float(round(tissue.mean_hu))
        if abs(value) >= 10:
            # Relative accuracy is ill-conditioned near 0 HU, so such means are not asked for.
            step = max(40.0, 0.35 * abs(value))
            shifts = step * rng.permutation(np.array((-3, -2, -1, 1, 2, 3)))[:3]
            options = _number_options(value, np.maximum(value + shifts, -1000), "HU")
            yield Candidate("mean_hu", name, text, f"{value:g} HU", options, own, value, "HU")
        if structure.name in scene.groups:
            continue
        differences = [region.mean_hu - tissue.mean_hu for region in structure.lesions]
        certain = structure.lesions_certain and len(differences) == 1
        if certain and abs(differences[0]) >= 50:
            answer = "brighter" if differences[0] > 0 else "darker"
            text = {**text, "w": structure.lesion_word}
            options, ids = ("brighter", "darker"), structure.seen
            diameters = structure.diameters
            yield Candidate("lesion_density", name, text, answer, options, ids, diameters=diameters)


def _number_options(value: float, others: np.ndarray, unit: str) -> tuple[str, ...]:
    """The answer first, then distractors rounded like it and distinct from it and one another."""
    digits = 1 if unit == "mL" and abs(value) < 10 else 0
    texts = [f"{value:g} {unit}"]
    for other in others:
        text = f"{round(float(other), digits):g} {unit}"
        if text not in texts:
            texts.append(text)
    return tuple(texts)


def _count_options(count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """0, 1, 2 for small counts; else four neighbours, the answer at a random place among them."""
    if count <= 2:
        return ("0", "1", "2")
    start = int(rng.integers(count - 3, count + 1))
    return tuple(str(n) for n in range(start, start + 4))


def counting_candidates(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    for structure in organs(scene):
        if structure.lesion_ids and structure.lesions_certain:
            count = len(structure.lesions)
            yield Candidate(
                "lesion_count", structure.name,
                {"x": display(structure.name), "w": structure.lesion_word}, str(count),
                _count_options(count, rng), structure.seen, diameters=structure.diameters,
            )  # fmt: skip
    for base, left, right in pairs(scene.structures):
        seen = (scene.present(left.name), scene.present(right.name))
        if None in seen:
            continue
        count = sum(map(bool, seen))
        text, ids = {"n": plural(base)}, left.seen + right.seen
        yield Candidate("pair_count", base, text, str(count), _count_options(count, rng), ids)
    for noun, pattern in FAMILIES.items():
        members = [name for name in scene.structures if re.fullmatch(pattern, name)]
        seen = [scene.present(name) for name in members]
        if members and None not in seen:
            count = sum(map(bool, seen))
            ids = tuple(i for name in members for i in scene.structures[name].seen)
            options = _count_options(count, rng)
            yield Candidate("family_count", noun, {"n": noun}, str(count), options, ids)
