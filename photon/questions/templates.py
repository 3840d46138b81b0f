"""The wording of generated questions: a few phrasings per kind, so that little data teaches them.

{x}: a structure as it reads after "the"; {n}: a plural; {w}: "lesion", "cyst", ...; {v}: is or are.
"""

from __future__ import annotations

PHRASES: dict[str, tuple[str, ...]] = {
    "organ_present": ("{V} the {x} visible in this scan?", "Does this scan show the {x}?"),
    "lesion_present": ("Is there a {w} in the {x}?", "Does the {x} contain a {w}?"),
    "finding_present": ("Is there a {x}?", "Does this scan show a {x}?"),
    "size_class": ("What is the size of the {x}?", "How large {v} the {x}?"),
    "volume": ("What is the volume of the {x} in mL?", "How many mL {v} the {x}?"),
    "visible_volume": (
        "What is the volume of the visible part of the {x} in mL?",
        "How many mL of the {x} lie inside this scan?",
    ),
    "hu_class": ("What is the attenuation of the {x}?", "How dense {v} the {x}?"),
    "mean_hu": ("What is the mean attenuation of the {x} in HU?", "What is the HU of the {x}?"),
    "lesion_density": (
        "Is the {w} in the {x} brighter or darker than the rest of it?",
        "How does the {w} in the {x} compare with the rest of it?",
    ),
    "lesion_count": ("How many {w}s are in the {x}?", "What is the number of {w}s in the {x}?"),
    "pair_count": ("How many {n} are visible?", "What is the number of visible {n}?"),
    "family_count": ("How many {n} are visible?", "What is the number of visible {n}?"),
    "lesion_side": ("Which {x} contains a {w}?", "On which side does a {x} contain a {w}?"),
    "finding_side": ("On which side is the {x}?", "Which side has a {x}?"),
    "lesion_level": (
        "Is the {w} in the upper or the lower part of the {x}?",
        "Which part of the {x} contains the {w}?",
    ),
    "pair_level": ("Which {x} lies higher?", "Which {x} is closer to the head?"),
    "side": ("On which side of the body is the {x}?", "On which side {v} the {x}?"),
    "relative_side": (
        "Is the {x} to the patient's left or right of the {y}?",
        "On which side of the {y} is the {x}?",
    ),
    "relative_level": (
        "Is the {x} above or below the {y}?",
        "Where is the {x}, above or below the {y}?",
    ),
    "pair_larger": ("Which {x} is larger?", "Is the left or the right {x} larger?"),
    "pair_denser": ("Which {x} is denser?", "Is the left or the right {x} denser?"),
    "pair_lesions": ("Which {x} has more {w}s?", "On which side has the {x} more {w}s?"),
    "larger": ("Which is larger, the {x} or the {y}?", "Which is bigger, the {x} or the {y}?"),
    "denser": ("Which is denser, the {x} or the {y}?", "Which has more HU, the {x} or the {y}?"),
    "lesion_organ": (
        "Which contains a {w}, the {x} or the {y}?",
        "Where is a {w}, in the {x} or in the {y}?",
    ),
    "lesion_larger": (
        "Which has the larger {w}, the {x} or the {y}?",
        "Is the {w} larger in the {x} or in the {y}?",
    ),
    "lesion_diameter": (
        "What is the diameter of the {w} in the {x} in mm?",
        "How many mm wide is the {w} in the {x}?",
    ),
    "lesion_new": (
        "Is there a new {w} in the {x}?",
        "Has a {w} appeared in the {x} since the earlier scan?",
    ),
    "lesion_resolved": (
        "Has a {w} in the {x} resolved?",
        "Has a {w} disappeared from the {x} since the earlier scan?",
    ),
    "lesion_status": (
        "Is a {w} in the {x} new, resolved or persistent?",
        "What became of the {w} in the {x} since the earlier scan?",
    ),
    "lesion_change": (
        "Has the {w} in the {x} grown or shrunk?",
        "How has the {w} in the {x} changed since the earlier scan?",
    ),
    "finding_status": (
        "Is a {x} new, resolved or persistent?",
        "What became of the {x} since the earlier scan?",
    ),
    "new_side": ("Which {x} contains a new {w}?", "On which side does a {x} contain a new {w}?"),
}
# The subtasks of the paper's Table 1, as far as label maps can answer them.
_KINDS_OF = {
    "existence_detection": "organ_present lesion_present finding_present",
    "image_observation": "lesion_density lesion_level finding_side pair_level pair_count "
    "family_count side relative_side relative_level",
    "anomaly_detection": "lesion_count lesion_side lesion_organ",
    "medical_measurement": "size_class hu_class volume visible_volume mean_hu lesion_diameter",
    "static_comparison": "pair_larger pair_denser pair_lesions lesion_larger larger denser",
    "longitudinal_comparison": "lesion_new lesion_resolved lesion_status lesion_change "
    "finding_status new_side",
}
SUBTASK_OF = {kind: name for name, kinds in _KINDS_OF.items() for kind in kinds.split()}
SUBTASKS = tuple(_KINDS_OF)
REPORT_REQUESTS = ("Describe this scan.", "Write a report of this scan.", "What is in this scan?")
YES_NO = ("yes", "no")
SIDES = ("left", "right")
SIDE_SETS = ("left", "right", "both", "neither")
SIZE_CLASSES = ("small", "normal", "large")
HU_CLASSES = ("low", "normal", "high")
STATUSES = ("new", "resolved", "persistent", "none")
CHANGES = ("grown", "shrunk", "stable")
PLURAL_NAMES = ("costal cartilages", "kidneys", "lungs", "vertebrae")


def phrase(kind: str, index: int, **words: str) -> str:
    """One phrasing of a kind, with verb agreement for plural names."""
    options = PHRASES[kind]
    verb = "are" if words.get("x") in PLURAL_NAMES else "is"
    return options[index % len(options)].format(v=verb, V=verb.capitalize(), **words)
