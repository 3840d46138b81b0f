"""Overlap between kept tokens of different questions, by hand and against set arithmetic."""

import numpy as np
import pytest

from photon.evaluation import overlap
from photon.evaluation.overlap import Mask, jaccard_dissimilarity, organ_dissimilarity


def test_jaccard_equals_set_arithmetic():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random((2, 3, 4, 5)) < 0.4
        one, other = set(np.flatnonzero(a)), set(np.flatnonzero(b))
        expected = 1 - len(one & other) / len(one | other)
        assert jaccard_dissimilarity(a, b) == pytest.approx(expected)
    assert jaccard_dissimilarity(a, a) == 0 and jaccard_dissimilarity(a, ~a) == 1
    assert jaccard_dissimilarity(a, b) == jaccard_dissimilarity(b, a)
    empty = np.zeros(4, bool)
    assert jaccard_dissimilarity(empty, empty) == 0
    with pytest.raises(ValueError, match="4 and 5"):
        jaccard_dissimilarity(empty, np.zeros(5, bool))


def test_random_dissimilarity_is_what_random_masks_have():
    rng = np.random.default_rng(0)
    a, b = rng.random(200_000) < 0.3, rng.random(200_000) < 0.6
    assert jaccard_dissimilarity(a, b) == pytest.approx(
        overlap.random_dissimilarity(0.3, 0.6), abs=0.005
    )
    assert overlap.random_dissimilarity(1, 1) == 0 and overlap.random_dissimilarity(0, 0) == 0


def mask(volume, organ, *kept):
    keep = np.zeros(4, bool)
    keep[list(kept)] = True
    return Mask(volume, organ, keep)


def test_pairs_stay_within_a_volume_and_volumes_weigh_alike():
    masks = [
        mask("v1", "liver", 0, 1), mask("v1", "kidney", 1, 2), mask("v1", "kidney", 2, 3),
        mask("v2", "kidney", 0), mask("v2", "liver", 0), mask("v3", "spleen", 0),
    ]  # fmt: skip
    table = organ_dissimilarity(masks)
    assert list(table) == [("kidney", "kidney"), ("kidney", "liver")]
    pair = table["kidney", "liver"]  # v1: (2/3 + 1) / 2; v2: 0
    assert pair.mean == pytest.approx((5 / 6 + 0) / 2)
    assert (pair.pairs, pair.volumes) == (3, 2)
    assert table["kidney", "kidney"].mean == pytest.approx(2 / 3)
    half, quarter = 1 - 0.25 / 0.75, 1 - (1 / 16) / (7 / 16)
    assert pair.random == pytest.approx((half + quarter) / 2)
    assert organ_dissimilarity(masks[::-1]) == table
