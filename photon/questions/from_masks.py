"""Questions with verified answers from any CT and its label map, phantom or real (not in paper).

`measure` reads the voxels, `find_candidates` lists what they answer without doubt, and here a
balanced sample of it is put into words, as multiple choice or free text.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from photon.annotations import Count, Share, check
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

Form = Literal["choice", "free"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Asking:
    """How many questions are asked of a scene, about what and in which form.

    Attributes:
        count: of questions, at most; shared evenly between the subtasks.
        forms: "choice" and "free", drawn for each question.
        subtasks: those asked about.
        numeric: share of mL, HU and mm questions in the subtasks that have them, in [0, 1].
        evenly: fields of a candidate between whose values a subtask's questions are shared, one
            after the other.

    Raises ValueError on an unknown form or subtask and on illegal numbers.
    """

    count: Count = 24
    forms: Sequence[Form] = FORMS
    subtasks: Sequence[str] = templates.SUBTASKS
    numeric: Share = 0.5
    evenly: Sequence[str] = ("kind", "answer_class")

    def __post_init__(self) -> None:
        check(self)
        for key, legal in (("forms", FORMS), ("subtasks", templates.SUBTASKS)):
            chosen = list(getattr(self, key))
            if not chosen or set(chosen) - set(legal):
                raise ValueError(f"{key}={chosen} must be a non-empty part of {list(legal)}")

    def choose(self, candidates: Iterable[Candidate], rng: np.random.Generator) -> list[Candidate]:
        """Up to `count` of the candidates."""
        pools: dict[str, list[Candidate]] = {name: [] for name in self.subtasks}
        for candidate in candidates:
            if (name := templates.SUBTASK_OF[candidate.kind]) in pools:
                pools[name].append(candidate)
        chosen: list[Candidate] = []
        while len(chosen) < self.count and any(pools.values()):
            for name in rng.permutation([name for name in self.subtasks if pools[name]]):
                if len(chosen) == self.count:
                    break
                candidate = self._pick(pools[str(name)], rng)
                pools[str(name)].remove(candidate)
                chosen.append(candidate)
        return chosen

    def _pick(self, pool: list[Candidate], rng: np.random.Generator) -> Candidate:
        """One candidate: number or not, then by each key of `evenly`, then any."""
        numbers = [candidate for candidate in pool if candidate.value is not None]
        others = [candidate for candidate in pool if candidate.value is None]
        use_numbers = rng.random() < self.numeric
        pool = (numbers if use_numbers else others) or numbers or others
        for key in self.evenly:
            values = sorted({getattr(candidate, key) for candidate in pool})
            value = values[int(rng.integers(len(values)))]
            pool = [candidate for candidate in pool if getattr(candidate, key) == value]
        return pool[int(rng.integers(len(pool)))]

    def records(
        self,
        candidates: Iterable[Candidate],
        rng: np.random.Generator,
        prefix: str,
        extra: Callable[[Candidate], dict] = lambda _: {},
        **where,
    ) -> list[Record]:
        """Choose and word; ids begin with `prefix`, `where` (volume, labels, ...) is of all."""
        return [
            word(candidate, f"{prefix}-{number:03d}", self.forms, rng, extra(candidate), **where)
            for number, candidate in enumerate(self.choose(candidates, rng))
        ]


def generate_questions(
    hu: np.ndarray,
    labels: np.ndarray,
    affine: np.ndarray,
    names: Mapping[int, str] | None = None,
    /,
    *,
    asking: Asking | None = None,
    reference: Reference | None = None,
    seed: int = 0,
    prefix: str | None = None,
    **where,
) -> list[Record]:
    """Questions about one CT, the answers computed from its voxels; the same call gives the same.

    Args:
        hu: [D,H,W] Hounsfield units.
        labels: [D,H,W] integer ids on the same grid.
        affine: (w,h,d,1) to RAS+ mm.
        names: {id: name} (default: TotalSegmentator's). A name without a voxel counts as absent
            from the volume, so give only names that the label map's author looked for.
        asking: how many, about what and in which form (default: `Asking()`).
        reference: {organ: {"volume_ml": (low, high), "hu": (low, high)}}, without which no size or
            attenuation class is asked.
        prefix: of the ids, by default the volume's file name.
        where: fields of the records; `volume`, the path written into them, is needed.
    """
    scene = measure(hu, labels, affine, TOTALSEGMENTATOR if names is None else names)
    volume = where["volume"]
    rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(volume.encode())]))
    prefix = (
        Path(volume).name.removesuffix(".gz").removesuffix(".nii") if prefix is None else prefix
    )
    where = {"patient": volume, "task": "masks", **where}
    candidates = find_candidates(scene, reference or {}, rng)
    extra = where.pop("extra", {})
    return (asking or Asking()).records(candidates, rng, prefix, lambda _: extra, **where)


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
        subtask=templates.SUBTASK_OF[candidate.kind],
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
