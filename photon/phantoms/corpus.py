"""Every wording that the question generator can produce, for training a tokenizer on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from photon.phantoms.layout import NAMES
from photon.questions import templates
from photon.questions.label_names import (
    COMPOSITES,
    FAMILIES,
    GROUPS,
    TOTALSEGMENTATOR,
    display,
    lesion_organ,
    plural,
    split_side,
)
from photon.questions.prompts import SYSTEM
from photon.questions.record import LETTERS, choice_text

ANSWERS = (
    *templates.YES_NO, *templates.SIDE_SETS, *templates.SIZE_CLASSES, *templates.HU_CLASSES,
    *templates.STATUSES, *templates.CHANGES, "upper", "lower", "brighter", "darker", "above",
    "below", "12 mL", "-57 HU", "36 mm", "absent", "visible",
)  # fmt: skip
LESION_WORDS = ("lesion", "cyst", "tumor", "nodule", "mass")
# Words of published radiology questions, so that a user's own question is not spelt in bytes.
CLINICAL_WORDS = """patient image images CT slice chest abdomen pelvis thorax finding findings
abnormality diagnosis disease opacity consolidation atelectasis emphysema bronchiectasis
calcification fibrosis lymph node nodules masses metastasis cancer tumor tumors aneurysm
stenosis stent fracture hernia ascites thickening enlarged dilated diameter length millimeters
centimeters measured increased decreased normal abnormal present absent located location shape
margin density contrast enhancement wall bone muscle fat fluid air vessel vein artery gland
thyroid coronary pulmonary hepatic renal biliary kidney stone gallstones cirrhosis steatosis
pneumonia hemorrhage edema pericardial mediastinal bilateral unilateral anterior posterior
lateral medial proximal distal compared previous yes option following likely most between number
total volume ratio percent""".split()
# Phantoms are what the tiny model reads most, so that their words merge first.
PHANTOM_REPEAT, ANSWER_REPEAT = 6, 400


def corpus() -> Iterator[str]:
    """Texts in a fixed order: questions of every kind and organ, captions, options and answers."""
    organs = {label: name for label, name in NAMES.items() if not lesion_organ(name)}
    yield from _questions(organs, PHANTOM_REPEAT)
    together = dict(enumerate((*COMPOSITES, *GROUPS), start=1000))
    yield from _questions({**TOTALSEGMENTATOR, **together}, 1)
    for answer in ANSWERS:
        yield from (answer for _ in range(ANSWER_REPEAT))
        yield from (choice_text("", {"A": answer}) for _ in range(ANSWER_REPEAT // 4))
    turns = (f"system\n{SYSTEM}", "user\n", "assistant\n")
    for text in (*turns, *templates.REPORT_REQUESTS, *LETTERS):
        yield from (text for _ in range(ANSWER_REPEAT))
    for word in CLINICAL_WORDS:
        yield from (f"The {word}" for _ in range(4))


def _questions(names: Mapping[int, str], repeat: int) -> Iterator[str]:
    for name in names.values():
        base, side = split_side(name)
        words = {"x": display(name), "y": display(name), "w": "lesion"}
        paired = side and "_lobe" not in base
        words["n"] = plural(base) if paired else next(iter(FAMILIES))
        for kind, phrasings in templates.PHRASES.items():
            for index in range(len(phrasings)):
                text = templates.phrase(kind, index, **words)
                yield from (choice_text(text, {}) for _ in range(repeat))
        yield from (f"{display(name)}: small, low attenuation, 1 lesion." for _ in range(repeat))
        yield from (f"No lesions. {display(name)}: normal. {words['n']}" for _ in range(repeat))
    for noun in (*FAMILIES, *LESION_WORDS):
        yield from (templates.phrase("family_count", 0, n=noun) for _ in range(repeat * 4))
