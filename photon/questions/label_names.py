"""Names of label ids: the TotalSegmentator v2 "total" table, and how names read in a question.

A structure's name is lower-case snake case with its side last ("kidney_right"); a lesion is named
after its organ ("liver_lesion", "kidney_cyst_left").  Ids and names: wasserth/TotalSegmentator
(Apache-2.0), class map "total"; the real label map under ../shared/data/ct uses 41 of them.
"""

from __future__ import annotations

import re

_MIDDLE = """spleen kidney_right kidney_left gallbladder liver stomach pancreas
adrenal_gland_right adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left
lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right esophagus trachea
thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left
kidney_cyst_right sacrum vertebrae_S1""".split()
_SPINE = [f"vertebrae_{part}{n}" for part, top in (("L", 5), ("T", 12), ("C", 7))
          for n in range(top, 0, -1)]  # fmt: skip
_LATER = """heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right
subclavian_artery_left common_carotid_artery_right common_carotid_artery_left
brachiocephalic_vein_left brachiocephalic_vein_right atrial_appendage_left superior_vena_cava
inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right
iliac_vena_left iliac_vena_right humerus_left humerus_right scapula_left scapula_right
clavicula_left clavicula_right femur_left femur_right hip_left hip_right spinal_cord
gluteus_maximus_left gluteus_maximus_right gluteus_medius_left gluteus_medius_right
gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left
iliopsoas_right brain skull""".split()
_RIBS = [f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)]

TOTALSEGMENTATOR: dict[int, str] = dict(
    enumerate([*_MIDDLE, *_SPINE, *_LATER, *_RIBS, "sternum", "costal_cartilages"], start=1)
)

# Names counted together: question noun -> pattern of member names.
FAMILIES: dict[str, str] = {
    "lumbar vertebrae": r"vertebrae_L\d",
    "thoracic vertebrae": r"vertebrae_T\d+",
    "cervical vertebrae": r"vertebrae_C\d",
    "left ribs": r"rib_left_\d+",
    "right ribs": r"rib_right_\d+",
}
# Structures made of several ids: name -> pattern of member names.
COMPOSITES: dict[str, str] = {
    "lung_left": r"lung_(upper|lower)_lobe_left",
    "lung_right": r"lung_(upper|middle|lower)_lobe_right",
}
# Organs measured together, where at least two members are labelled: name -> members.
GROUPS: dict[str, str] = {
    "kidneys": r"kidney_(left|right)",
    "lungs": r"lung_(left|right|\w+_lobe_(left|right))",
    "vertebrae": r"vertebrae_[CTL]\d+",
}
_LESION = re.compile(r"(.+?)_(lesion|tumou?r|cyst|nodule|mass)(_left|_right)?$")
_FINDING = re.compile(r"(?:.+_)?(?:effusion|pneumothorax|ascites|hemorrhage)(?:_left|_right)?$")
_WORDS = {
    "clavicula": "clavicle",
    "iliac_vena": "iliac vein",
    "autochthon": "deep back muscle",
    "iliopsoas": "iliopsoas muscle",
    "gluteus_maximus": "gluteus maximus muscle",
    "gluteus_medius": "gluteus medius muscle",
    "gluteus_minimus": "gluteus minimus muscle",
    "hip": "hip bone",
    "portal_vein_and_splenic_vein": "portal and splenic vein",
    "costal_cartilages": "costal cartilages",
}
# Organs of which a cut-off part still lies on the side where the whole lies.
LATERAL = ("liver", "gallbladder", "spleen", "stomach")


def split_side(name: str) -> tuple[str, str | None]:
    """ "kidney_right" -> ("kidney", "right"); a name without a side keeps None."""
    base, _, side = name.rpartition("_")
    return (base, side) if base and side in ("left", "right") else (name, None)


def lesion_organ(name: str) -> str | None:
    """The organ that a lesion's name belongs to, or None: "kidney_cyst_left" -> "kidney_left"."""
    match = _LESION.match(name)
    return match.group(1) + (match.group(3) or "") if match else None


def lesion_word(names: list[str]) -> str:
    """What to call the lesions of these names: "cyst" where all are cysts, else "lesion"."""
    words = {match.group(2) for match in map(_LESION.match, names) if match}
    return words.pop() if len(words) == 1 else "lesion"


def is_finding(name: str) -> bool:
    """True for something that is not an organ, such as "pleural_effusion_left"."""
    return _FINDING.match(name) is not None


def in_family(name: str) -> bool:
    """True for a vertebra or rib, which questions count but do not measure one by one."""
    return any(re.fullmatch(pattern, name) for pattern in FAMILIES.values())


def display(name: str) -> str:
    """How a name reads after "the": "kidney_right" -> "right kidney"."""
    base, side = split_side(name)
    if match := re.fullmatch(r"vertebrae_([A-Z]\d+)", name):
        return f"{match.group(1)} vertebra"
    if match := re.fullmatch(r"rib_(left|right)_(\d+)", name):
        return f"{match.group(1)} rib {match.group(2)}"
    if match := re.fullmatch(r"lung_(\w+)_lobe", base):
        return f"{match.group(1)} lobe of the {side} lung"
    words = _WORDS.get(base, base.replace("_", " "))
    return f"{side} {words}" if side else words


def plural(base: str) -> str:
    """Plural noun of a paired structure: "kidney" -> "kidneys", "iliac_artery" -> arteries."""
    words = display(base)
    if words.endswith("us"):
        return words[:-2] + "i"
    if words.endswith("y") and words[-2] not in "aeiou":
        return words[:-1] + "ies"
    return words + "s"
