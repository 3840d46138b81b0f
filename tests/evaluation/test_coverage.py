"""Organ masks on the token grid, against loops over voxels."""

import numpy as np
import pytest

from photon.errors import InputError
from photon.evaluation.coverage import evidence_recall, token_coverage


def test_coverage_equals_a_loop_over_tokens():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (28, 56, 84)).astype(np.uint8)
    share = token_coverage(labels, {1, 3})
    assert share.shape == (2, 2, 3) and share.dtype == np.float32
    for d in range(2):
        for h in range(2):
            for w in range(3):
                block = labels[14 * d : 14 * d + 14, 28 * h : 28 * h + 28, 28 * w : 28 * w + 28]
                inside = sum(1 for value in block.ravel() if value in (1, 3))
                assert share[d, h, w] == pytest.approx(inside / block.size)


def test_axes_are_not_mixed():
    labels = np.zeros((28, 56, 56), np.uint8)
    labels[0:14, 28:56, 0:28] = 5
    share = token_coverage(labels, [5])
    assert share[0, 1, 0] == 1.0 and share.sum() == 1.0


def test_absent_ids_and_bad_shapes():
    labels = np.ones((14, 28, 28), np.uint8)
    assert token_coverage(labels, []).sum() == 0
    assert token_coverage(labels, [700]).sum() == 0  # beyond the label type
    with pytest.raises(InputError, match=r"\(15, 28, 28\)"):
        token_coverage(np.ones((15, 28, 28), np.uint8), [1])
    assert token_coverage(np.ones((2, 4, 6), int), [1], token=(2, 2, 3)).shape == (1, 2, 2)


def test_recall_by_hand():
    share = np.array([[[0.5, 0.1], [0.0, 1.0]]])
    keep = np.array([[[True, False], [True, True]]])
    assert evidence_recall(share, keep) == pytest.approx(2 / 3)
    assert evidence_recall(share, keep.ravel()) == pytest.approx(2 / 3)
    assert evidence_recall(np.zeros((1, 1, 2)), keep[:, :1]) is None
    with pytest.raises(ValueError, match="4 tokens"):
        evidence_recall(np.zeros(3), keep)


def test_random_tokens_recall_the_keep_ratio_on_average():
    rng = np.random.default_rng(0)
    share = rng.random((4, 4, 4)) * (rng.random((4, 4, 4)) < 0.3)
    recalls = [evidence_recall(share, rng.permutation(64) < 20) for _ in range(3000)]
    assert np.mean(recalls) == pytest.approx(20 / 64, abs=0.01)
