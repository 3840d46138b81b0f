"""Where structures lie and how two of them compare: candidates of a scene."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from photon.questions import templates as words
from photon.questions.candidates import Candidate, near, organs, pairs
from photon.questions.label_names import LATERAL, display, split_side
from photon.questions.measure import Scene, Structure

LESION_RATIO = 1.15  # of two diameters, above which one lesion is called larger


def side_set(left: bool, right: bool) -> str:
    return {(True, True): "both", (False, False): "neither"}.get(
        (left, right), "left" if left else "right"
    )


def location_candidates(scene: Scene) -> Iterator[Candidate]:
    for base, left, right in pairs(scene.structures):
        lesions_known = left.lesion_ids and right.lesion_ids and (left.whole or right.whole)
        if lesions_known and left.lesions_certain and right.lesions_certain:
            text = {"x": display(base), "w": left.lesion_word}
            answer = side_set(bool(left.lesions), bool(right.lesions))
            ids, diameters = left.seen + right.seen, left.diameters + right.diameters
            options = words.SIDE_SETS
            yield Candidate("lesion_side", base, text, answer, options, ids, diameters=diameters)
        if scene.present(left.name) and scene.present(right.name):
            yield from _pair_level(scene, base, left, right)
    for base, left, right in pairs(scene.findings):
        seen = (scene.present(left.name), scene.present(right.name))
        if None not in seen:
            ids = tuple(
                i
                for finding, there in zip((left, right), seen, strict=True)
                for i in (finding.seen if there else near(scene, finding.name))
            )
            answer = side_set(bool(seen[0]), bool(seen[1]))
            yield Candidate(
                "finding_side", base, {"x": display(base)}, answer, words.SIDE_SETS, ids
            )
    for structure in organs(scene):
        yield from _lesion_level(structure)
        yield from _side(scene, structure)
    yield from _relative(scene)


def _pair_level(scene: Scene, base: str, left: Structure, right: Structure) -> Iterator[Candidate]:
    assert left.whole and right.whole
    gap = left.whole.centre[2] - right.whole.centre[2]
    if not (left.whole.cut or right.whole.cut) and abs(gap) >= 2 * scene.voxel_mm:
        answer, ids = "left" if gap > 0 else "right", left.seen + right.seen
        yield Candidate("pair_level", base, {"x": display(base)}, answer, words.SIDES, ids)


def _lesion_level(structure: Structure) -> Iterator[Candidate]:
    whole = structure.whole
    if len(structure.lesions) != 1 or whole is None or whole.cut:
        return
    if not structure.lesions_certain:
        return
    offset = structure.lesions[0].centre[2] - (whole.low + whole.high) / 2
    if abs(offset) >= 0.1 * (whole.high - whole.low):
        text = {"x": display(structure.name), "w": structure.lesion_word}
        answer = "upper" if offset > 0 else "lower"
        yield Candidate(
            "lesion_level", structure.name, text, answer, ("upper", "lower"), structure.seen,
            diameters=structure.diameters,
        )  # fmt: skip


def _side(scene: Scene, structure: Structure) -> Iterator[Candidate]:
    """Side of the body of a structure whose name does not tell it and which mostly lies on one."""
    base, side = split_side(structure.name)
    whole = structure.whole
    if side or whole is None or (whole.cut and structure.name not in LATERAL):
        return
    offset = whole.centre[0] - scene.midline
    if abs(offset) >= max(30.0, 0.25 * whole.width):
        answer = "right" if offset > 0 else "left"
        text = {"x": display(base)}
        yield Candidate("side", structure.name, text, answer, words.SIDES, structure.seen)


def _distinct(first: Structure, second: Structure) -> bool:
    """False for the two sides of one organ, and for a lung and its own lobe."""
    same = split_side(first.name)[0] == split_side(second.name)[0]
    return not same and not set(first.ids) & set(second.ids)


def _relative(scene: Scene) -> Iterator[Candidate]:
    """Pairs of different structures, by their centres, where they lie at least 30 mm apart."""
    inside = [s for s in organs(scene) if s.whole and not s.whole.cut]
    for index, first in enumerate(inside):
        for second in inside[index + 1 :]:
            if not _distinct(first, second):
                continue
            assert first.whole and second.whole
            gap = np.subtract(first.whole.centre, second.whole.centre)
            text = {"x": display(first.name), "y": display(second.name)}
            ids = first.seen + second.seen
            if abs(gap[0]) >= 30:
                answer = "right" if gap[0] > 0 else "left"
                yield Candidate("relative_side", first.name, text, answer, words.SIDES, ids)
            if abs(gap[2]) >= 30:
                answer = "above" if gap[2] > 0 else "below"
                yield Candidate("relative_level", first.name, text, answer, ("above", "below"), ids)


def comparison_candidates(scene: Scene) -> Iterator[Candidate]:
    for base, left, right in pairs(scene.structures):
        if scene.present(left.name) and scene.present(right.name):
            for kind, answer in _compare(left, right, "pair_larger", "pair_denser"):
                side = "left" if answer is left else "right"
                ids = left.seen + right.seen
                yield Candidate(kind, base, {"x": display(base)}, side, words.SIDES, ids)
            yield from _more_lesions(base, left, right)
    seen = list(organs(scene))
    for index, first in enumerate(seen):
        for second in seen[index + 1 :]:
            if not _distinct(first, second):
                continue
            texts = (display(first.name), display(second.name))
            ids = first.seen + second.seen
            text = {"x": texts[0], "y": texts[1]}
            for kind, answer in _compare(first, second, "larger", "denser"):
                yield Candidate(kind, first.name, text, display(answer.name), texts, ids)
            for kind, answer in _compare_lesions(first, second):
                text = {**text, "w": answer.lesion_word}
                diameters = first.diameters + second.diameters
                option = display(answer.name)
                yield Candidate(kind, first.name, text, option, texts, ids, diameters=diameters)


def _compare_lesions(first: Structure, second: Structure) -> Iterator[tuple[str, Structure]]:
    """(kind, the answer) where one organ has a lesion, or each has one and they differ in size."""
    if not (first.lesion_ids and second.lesion_ids):
        return
    if not (first.lesions_certain and second.lesions_certain):
        return
    if bool(first.lesions) != bool(second.lesions):
        yield "lesion_organ", first if first.lesions else second
    elif len(first.lesions) == len(second.lesions) == 1:
        a, b = first.diameters[0], second.diameters[0]
        if max(a, b) >= LESION_RATIO * min(a, b):
            yield "lesion_larger", first if a > b else second


def _more_lesions(base: str, left: Structure, right: Structure) -> Iterator[Candidate]:
    certain = left.lesions_certain and right.lesions_certain and left.lesion_ids
    if certain and right.lesion_ids and len(left.lesions) != len(right.lesions):
        answer = "left" if len(left.lesions) > len(right.lesions) else "right"
        text = {"x": display(base), "w": left.lesion_word}
        ids, diameters = left.seen + right.seen, left.diameters + right.diameters
        yield Candidate("pair_lesions", base, text, answer, words.SIDES, ids, diameters=diameters)


def _compare(
    first: Structure, second: Structure, larger: str, denser: str
) -> Iterator[tuple[str, Structure]]:
    """(kind, the winner) where the difference is beyond the margin."""
    a, b = first.whole, second.whole
    if a and b and not (a.cut or b.cut):
        if abs(a.volume_ml - b.volume_ml) >= 0.1 * max(a.volume_ml, b.volume_ml):
            yield larger, first if a.volume_ml > b.volume_ml else second
    c, d = first.tissue, second.tissue
    if c and d and abs(c.mean_hu - d.mean_hu) >= 20:
        yield denser, first if c.mean_hu > d.mean_hu else second
