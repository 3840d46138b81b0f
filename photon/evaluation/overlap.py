"""Do different questions keep different tokens? Jaccard dissimilarity and organ coverage.

Tables 11 and 12 of the paper. Both need a yardstick that the paper does not give: masks chosen at
random are dissimilar too, and two questions on the *same* organ may differ as much as on two.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.spatial.distance import jaccard


def jaccard_dissimilarity(first: np.ndarray, second: np.ndarray) -> float:
    """1 - |A and B| / |A or B| of two bool masks of one size; 0 for two empty ones (Table 11)."""
    first, second = np.asarray(first, bool).ravel(), np.asarray(second, bool).ravel()
    if first.size != second.size:
        raise ValueError(f"masks of {first.size} and {second.size} tokens cannot be compared")
    return float(jaccard(first, second))


def random_dissimilarity(first: float, second: float) -> float:
    """What two independent random masks of these keep ratios have, in the limit of many tokens."""
    union = first + second - first * second
    return 1.0 - first * second / union if union > 0 else 0.0


def kept_mask(row: Mapping[str, Any]) -> np.ndarray:
    """Bool [visual tokens] from a prediction row's `kept_mask`."""
    packed = np.frombuffer(bytes.fromhex(row["kept_mask"]), np.uint8)
    return np.unpackbits(packed, count=int(row["visual_tokens"])).astype(bool)


@dataclass(frozen=True)
class Mask:
    """Kept tokens (bool, any shape) of one question about an organ in a volume."""

    volume: str
    organ: str
    keep: np.ndarray


@dataclass(frozen=True)
class Dissimilarity:
    """Mean over volumes, what random masks of the same ratios would have, and counts."""

    mean: float
    random: float
    pairs: int
    volumes: int


def organ_dissimilarity(masks: Iterable[Mask]) -> dict[tuple[str, str], Dissimilarity]:
    """Dissimilarity for each pair of organs, (a, b) with a <= b, within the same volume.

    (a, a) compares different questions on one organ: the yardstick for (a, b). Pairs are averaged
    within a volume first, so that a volume with many questions does not weigh more.
    """
    of_volume: dict[str, list[Mask]] = defaultdict(list)
    for mask in masks:
        of_volume[mask.volume].append(mask)
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for volume, members in of_volume.items():
        for one, other in combinations(members, 2):
            a, b = sorted((one.organ, other.organ))
            value = jaccard_dissimilarity(one.keep, other.keep)
            chance = random_dissimilarity(float(np.mean(one.keep)), float(np.mean(other.keep)))
            found.setdefault((a, b), defaultdict(list))[volume].append((value, chance))
    out = {}
    for pair in sorted(found):
        means = np.array([np.mean(v, axis=0) for v in found[pair].values()])
        count = sum(len(v) for v in found[pair].values())
        out[pair] = Dissimilarity(*means.mean(axis=0).tolist(), count, len(means))
    return out
