"""The overlay montage: which pixels are whitened, where the outline runs, which way is up."""

import numpy as np
import pytest
from PIL import Image

from photon.study import viewer
from photon.study.viewer import overlay_figure, pick_slabs, save_overlay, token_edges


@pytest.fixture
def volume():
    """A uniform 56x84x84 body (4x3x3 tokens); the liver fills token (1, 1, 0) but a margin."""
    hu = np.full((56, 84, 84), 40, np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[16:26, 30:50, 2:24] = 5
    keep = np.zeros((4, 3, 3), bool)
    keep[1, 1, 0] = True
    return hu, keep, labels


def image_of(ax):
    return np.asarray(ax.get_images()[0].get_array())


def test_kept_pixels_keep_their_grey_and_the_rest_is_whitened(volume):
    hu, keep, labels = volume
    figure = overlay_figure(hu, keep, "Q", labels, slices=1)
    axial, coronal = figure.axes
    grey = (40 + 160) / 400
    white = (1 - viewer.WHITEN) * grey + viewer.WHITEN
    expected = np.full((84, 84), white)
    expected[28:56, 0:28] = grey
    assert image_of(axial)[..., 0] == pytest.approx(expected)
    expected = np.full((56, 84), white)
    expected[14:28, 0:28] = grey
    assert image_of(coronal)[..., 1] == pytest.approx(expected)


def test_head_is_up_and_the_patients_right_is_left(volume):
    axial, coronal = overlay_figure(*volume[:2], "Q", slices=1).axes
    assert axial.get_ylim()[0] > axial.get_ylim()[1]  # h grows downwards: the back is below
    assert coronal.get_ylim()[0] < coronal.get_ylim()[1]  # d grows upwards: the head is above
    # w grows to the patient's left: R (low w) stands on the left side
    texts = {t.get_text(): t.get_position()[0] for t in axial.texts}
    assert texts["R"] < texts["L"] and axial.get_xlim()[0] < axial.get_xlim()[1]


def test_slices_show_the_evidence(volume):
    hu, keep, labels = volume
    labels[:] = 0
    labels[25, 30:50, 2:24] = 5
    axial, _ = overlay_figure(hu, keep, "Q", labels, slices=1).axes
    assert "axial 25" in {t.get_text() for t in axial.texts}
    axial, _ = overlay_figure(hu, keep, "Q", slices=1).axes
    assert "axial 21" in {t.get_text() for t in axial.texts}  # the middle of slab 1


def test_spacing_sets_the_aspect(volume):
    hu, keep, _ = volume
    _, coronal = overlay_figure(hu, keep, "Q", spacing=(2.6, 1.3, 1.3), slices=1).axes
    left, right, bottom, top = coronal.get_images()[0].get_extent()
    assert (right - left, abs(top - bottom)) == pytest.approx((84 * 1.3, 56 * 2.6))


def test_edges_of_a_region():
    keep = np.array([[1, 1, 0], [0, 0, 0]], bool)
    inner, outer = token_edges(keep)
    assert inner.tolist() == [[[0, 1], [1, 1]]]
    rim = {tuple(map(tuple, edge)) for edge in outer.tolist()}
    assert rim == {((0, 0), (0, 1)), ((0, 1), (0, 2)), ((1, 0), (1, 1)), ((1, 1), (1, 2)),
                   ((0, 0), (1, 0)), ((0, 2), (1, 2))}  # fmt: skip
    inner, outer = token_edges(np.ones((2, 2), bool))
    assert len(inner) == 4 and len(outer) == 8


def test_edges_equal_a_loop_over_neighbours():
    keep = np.random.default_rng(0).random((4, 5)) < 0.5

    def at(r, c):
        return 0 <= r < 4 and 0 <= c < 5 and bool(keep[r, c])

    pairs = [(at(r - 1, c), at(r, c)) for r in range(5) for c in range(5)]
    pairs += [(at(r, c - 1), at(r, c)) for r in range(4) for c in range(6)]
    inner, outer = token_edges(keep)
    assert len(inner) == sum(a and b for a, b in pairs)
    assert len(outer) == sum(a != b for a, b in pairs)


def test_slabs_follow_the_weight():
    weight = np.zeros((10, 2, 2))
    weight[[2, 3, 8]] = [[[3]], [[2]], [[1]]]
    assert pick_slabs(weight, 0, 1) == [2]
    assert pick_slabs(weight, 0, 3) == [2, 3, 8]
    assert pick_slabs(np.zeros((10, 2, 2)), 0, 2) == [3, 6]
    assert pick_slabs(weight, 1, 4) == [0, 1]  # no more than there are


def test_empty_air_is_cut_off_and_counted():
    hu = np.full((56, 84, 84), -1000, np.int16)
    hu[14:42, 28:56, 28:84] = 40
    keep = np.zeros((4, 3, 3), bool)
    keep[1, 1, 1] = keep[0, 0, 0] = True
    figure = overlay_figure(hu, keep, "Q", slices=1)
    axial, coronal = figure.axes
    assert axial.get_xlim() == pytest.approx((27, 85)) and axial.get_ylim() == (56, 28)
    assert coronal.get_ylim() == (14, 42)
    text = figure.legends[0].get_texts()[0].get_text()
    assert text == "kept: 2 of 36 tokens (6 %), 1 of them empty air"


def test_scores_tint_kept_tokens_only(volume):
    hu, keep, _ = volume
    keep[1, 1, 1] = True
    scores = np.random.default_rng(0).random(keep.shape)
    axial = overlay_figure(hu, keep, "Q", scores=scores, slices=1).axes[0]
    picture = image_of(axial)
    assert np.ptp(picture[0, 0]) == 0  # dropped: grey
    assert np.ptp(picture[40, 10]) > 0.02 and np.abs(picture[40, 10] - picture[40, 40]).max() > 0.01


@pytest.mark.parametrize("kept", ["none", "all"])
def test_nothing_and_everything_kept(tmp_path, kept, volume):
    hu, keep, labels = volume
    path = save_overlay(tmp_path / "deep" / "o.png", hu, np.full(keep.shape, kept == "all"),
                        "A long question " * 20 + "\nanswer", labels * 0)  # fmt: skip
    with Image.open(path) as picture:
        assert picture.width > 1000
    assert [p.name for p in path.parent.iterdir()] == ["o.png"]


def test_wrong_grids_are_refused(volume):
    hu, keep, labels = volume
    with pytest.raises(ValueError, match="9 tokens"):
        overlay_figure(hu, keep[0], "Q")
    with pytest.raises(ValueError, match=r"\(55, 84, 84\)"):
        overlay_figure(hu[:55], keep, "Q")
    with pytest.raises(ValueError, match="labels of shape"):
        overlay_figure(hu, keep, "Q", labels[:14])


def test_flat_masks_from_a_generation_are_accepted(volume):
    hu, keep, _ = volume
    one, other = (overlay_figure(hu, k, "Q", slices=1).axes[0] for k in (keep, keep.ravel()))
    assert (image_of(one) == image_of(other)).all()
