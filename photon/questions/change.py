"""What changed between two scans of one patient: candidates of their two scenes."""

from __future__ import annotations

from collections.abc import Iterator

from photon.questions import templates as words
from photon.questions.candidates import Candidate, near, pairs
from photon.questions.label_names import display
from photon.questions.measure import Scene, Structure
from photon.questions.spatial import LESION_RATIO, side_set

STABLE_RATIO = 1.06  # of two diameters, below which a lesion is called stable


def change_candidates(before: Scene, after: Scene) -> Iterator[Candidate]:
    """Everything that two label maps answer without doubt about the change between them.

    A lesion is new where an organ had none before, resolved where it has none any more, and
    persistent where it has as many as before; other organs are not asked about. An organ must be
    visible in both scans. Evidence: the ids seen in either.
    """
    for name, first in before.structures.items():
        second = after.structures[name]
        if _comparable(before, after, name):
            yield from _lesion_candidates(first, second)
    for base, left, right in pairs(before.structures):
        if _comparable(before, after, left.name) and _comparable(before, after, right.name):
            both = [(side, after.structures[side.name]) for side in (left, right)]
            answer = side_set(*(_status(*pair) == "new" for pair in both))
            scans = [scan for pair in both for scan in pair]
            text = {"x": display(base), "w": left.lesion_word}
            yield _candidate("new_side", base, text, answer, words.SIDE_SETS, *scans)
    for name in before.findings:
        seen = (before.present(name), after.present(name))
        if None not in seen:
            ids = {
                label
                for scene, there in zip((before, after), seen, strict=True)
                for label in (scene.findings[name].seen if there else near(scene, name))
            }
            answer, text = _called(*map(bool, seen)), {"x": display(name)}
            options = words.STATUSES
            yield Candidate("finding_status", name, text, answer, options, tuple(sorted(ids)))


def _comparable(before: Scene, after: Scene, name: str) -> bool:
    first, second = before.structures[name], after.structures[name]
    counts = len(first.lesions), len(second.lesions)
    return bool(
        before.present(name)
        and after.present(name)
        and first.lesion_ids
        and first.lesions_certain
        and second.lesions_certain
        and (0 in counts or counts[0] == counts[1])
    )


def _called(first: bool, second: bool) -> str:
    if first:
        return "persistent" if second else "resolved"
    return "new" if second else "none"


def _status(first: Structure, second: Structure) -> str:
    return _called(bool(first.lesions), bool(second.lesions))


def _lesion_candidates(first: Structure, second: Structure) -> Iterator[Candidate]:
    name, status = first.name, _status(first, second)
    text = {"x": display(name), "w": first.lesion_word}
    for kind, wanted in (("lesion_new", "new"), ("lesion_resolved", "resolved")):
        answer = "yes" if status == wanted else "no"
        yield _candidate(kind, name, text, answer, words.YES_NO, first, second)
    yield _candidate("lesion_status", name, text, status, words.STATUSES, first, second)
    if len(first.lesions) == len(second.lesions) == 1:
        ratio = second.diameters[0] / first.diameters[0]
        if max(ratio, 1 / ratio) <= STABLE_RATIO:
            yield _candidate("lesion_change", name, text, "stable", words.CHANGES, first, second)
        elif max(ratio, 1 / ratio) >= LESION_RATIO:
            answer = "grown" if ratio > 1 else "shrunk"
            yield _candidate("lesion_change", name, text, answer, words.CHANGES, first, second)


def _candidate(
    kind: str,
    organ: str,
    text: dict[str, str],
    answer: str,
    options: tuple[str, ...],
    *scans: Structure,
) -> Candidate:
    ids = tuple(sorted({label for scan in scans for label in scan.seen}))
    diameters = tuple(d for scan in scans for d in scan.diameters)
    return Candidate(kind, organ, text, answer, options, ids, diameters=diameters)
