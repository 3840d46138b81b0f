"""Questions with verified answers from any CT and its label map, phantom or real (not in paper).

`measure` reads the voxels, `find_candidates` lists what they answer without doubt, and here a
balanced sample of it is put into words, as multiple choice or free text.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from photon.questions import templates
from photon.questions.candidates import (
    Candidate,
    Reference,
    attenuation_candidates,
    counting_candidates,
    existence_candidates,
    size_candidates,
)
from photon.questions.label_names import TOTALSEGMENTATOR
from photon.questions.measure import Scene, measure
from photon.questions.record import LETTERS, Record, choice_text
from photon.questions.spatial import comparison_candidates, location_candidates

FORMS = ("choice", "free")


def generate_questions(
    hu: np.ndarray,
    labels: np.ndarray,
    affine: np.ndarray,
    names: Mapping[int, str] | None = None,
    *,
    volume: str,
    **options,
) -> list[Record]:
    """Up to `per_volume` questions about one CT, the answers computed from its voxels.

    hu [D,H,W] Hounsfield units, labels [D,H,W] integer ids on the same grid, affine (w,h,d,1) to
    RAS+ mm, names {id: name} (default: TotalSegmentator's).  A name in `names` without a voxel
    counts as absent from the volume, so pass only names that the label map's author looked for.
    `volume`: the path written into the records.  Further options: see `questions_from_scene`.
    """
    scene = measure(hu, labels, affine, TOTALSEGMENTATOR if names is None else names)
    return questions_from_scene(scene, volume=volume, **options)


def questions_from_scene(
    scene: Scene,
    *,
    volume: str,
    prefix: str | None = None,
    labels_path: str | None = None,
    patient: str | None = None,
    task: str = "masks",
    split: str | None = None,
    seed: int = 0,
    per_volume: int = 24,
    forms: Sequence[str] = FORMS,
    subtasks: Sequence[str] = templates.SUBTASKS,
    numeric: float = 0.5,
    reference: Reference | None = None,
    exclude: Collection[str] = (),
) -> list[Record]:
    """Choose and word the questions of a measured scene; the same arguments give the same records.

    Questions are shared evenly between `subtasks`, within one between its kinds, within a kind
    between the answers that this scene can give.  `numeric`: share of mL, HU and mm questions in
    the subtasks that have them.  `reference`: {organ: {"volume_ml": (low, high), "hu": (low,
    high)}}, without which no size or attenuation class is asked.  `exclude`: kinds ("side") or
    "KIND:ORGAN" never asked.  `prefix`: of the ids, by default the volume's file name.  Raises
    ValueError on an unknown form or subtask and on illegal numbers.
    """
    check_options(forms, subtasks, per_volume, numeric)
    rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(volume.encode())]))
    candidates = [
        candidate
        for candidate in find_candidates(scene, reference or {}, rng)
        if candidate.kind not in exclude and f"{candidate.kind}:{candidate.organ}" not in exclude
    ]
    chosen = choose(candidates, per_volume, subtasks, numeric, rng)
    prefix = _stem(volume) if prefix is None else prefix
    where = {"volume": volume, "labels": labels_path, "patient": patient or volume, "task": task}
    extra = {"split": split} if split else {}
    return [
        word(candidate, f"{prefix}-{number:03d}", forms, rng, extra, **where)
        for number, candidate in enumerate(chosen)
    ]


def find_candidates(
    scene: Scene, reference: Reference, rng: np.random.Generator
) -> list[Candidate]:
    """Everything that the voxels answer without doubt. `rng` draws the distractors of numbers."""
    return [
        *existence_candidates(scene),
        *size_candidates(scene, reference, rng),
        *attenuation_candidates(scene, reference, rng),
        *counting_candidates(scene, rng),
        *location_candidates(scene),
        *comparison_candidates(scene),
    ]


def choose(
    candidates: Sequence[Candidate],
    n: int,
    subtasks: Sequence[str],
    numeric: float,
    rng: np.random.Generator,
    evenly: Sequence[str] = ("kind", "answer_class"),
) -> list[Candidate]:
    """Up to `n`: shared evenly between the subtasks, in one by `evenly`, then by chance."""
    pools = {name: [i for i in candidates if subtask_of(i) == name] for name in subtasks}
    chosen: list[Candidate] = []
    while len(chosen) < n and any(pools.values()):
        for name in rng.permutation([name for name in subtasks if pools[name]]):
            if len(chosen) == n:
                break
            candidate = _pick(pools[str(name)], numeric, rng, evenly)
            pools[str(name)].remove(candidate)
            chosen.append(candidate)
    return chosen


def check_options(
    forms: Sequence[str], subtasks: Sequence[str], per_volume: int, numeric: float
) -> None:
    """Raise ValueError on an unknown form or subtask and on illegal numbers."""
    if not forms or set(forms) - set(FORMS):
        raise ValueError(f"forms={list(forms)} must be a non-empty part of {list(FORMS)}")
    if not subtasks or set(subtasks) - set(templates.SUBTASKS):
        legal = list(templates.SUBTASKS)
        raise ValueError(f"subtasks={list(subtasks)} must be a non-empty part of {legal}")
    if per_volume < 1:
        raise ValueError(f"per_volume={per_volume} must be at least 1")
    if not 0.0 <= numeric <= 1.0:
        raise ValueError(f"numeric={numeric} must lie in [0, 1]")


def subtask_of(candidate: Candidate) -> str:
    return templates.SUBTASK_OF[candidate.kind]


def _pick(
    pool: list[Candidate], numeric: float, rng: np.random.Generator, evenly: Sequence[str]
) -> Candidate:
    """One candidate: number or not, then by each key of `evenly`, then any."""
    numbers = [candidate for candidate in pool if candidate.value is not None]
    others = [candidate for candidate in pool if candidate.value is None]
    use_numbers = rng.random() < numeric
    pool = (numbers if use_numbers else others) or numbers or others
    for key in evenly:
        values = sorted({getattr(candidate, key) for candidate in pool})
        value = values[int(rng.integers(len(values)))]
        pool = [candidate for candidate in pool if getattr(candidate, key) == value]
    return pool[int(rng.integers(len(pool)))]


def word(
    candidate: Candidate,
    name: str,
    forms: Sequence[str],
    rng: np.random.Generator,
    extra: dict,
    **where,
) -> Record:
    """Phrase a candidate, and shuffle the options when it becomes a choice question.

    `name` begins its id; `extra` and `where` (volume, labels, ...) are of the record.
    """
    text = templates.phrase(candidate.kind, int(rng.integers(1 << 16)), **candidate.words)
    form = forms[int(rng.integers(len(forms)))]
    choices, letter, answer = None, None, candidate.answer
    if form == "choice":
        order = rng.permutation(len(candidate.options))
        choices = {LETTERS[i]: candidate.options[int(j)] for i, j in enumerate(order)}
        letter = next(key for key, option in choices.items() if option == candidate.answer)
        text, answer = choice_text(text, choices), letter
    return Record(
        id=f"{name}-{candidate.kind}",
        question=text,
        answer=answer,
        subtask=subtask_of(candidate),
        question_type=form,
        choices=choices,
        answer_letter=letter,
        evidence=candidate.evidence,
        organ=candidate.organ,
        value=candidate.value,
        unit=candidate.unit,
        extra={"kind": candidate.kind, **candidate.extra, **extra},
        **where,
    )


def _stem(volume: str) -> str:
    return Path(volume).name.removesuffix(".gz").removesuffix(".nii")
