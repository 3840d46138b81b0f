"""Geometry against analytic volumes, SimpleITK and real label maps."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from photon.volume import geometry as g
from photon.volume.geometry import Preparation
from photon.volume.reader import read_labels, read_volume
from photon.volume.sampling import apply_axes, axis_matrix, nearest_index
from photon.volume.types import Volume
from tests.volume.steps import center_crop, resample, resize

GRADIENT = np.array([1.7, -2.3, 3.1])  # HU per mm along R, A, S


def rotation(degrees: float, axis=(1.0, 2.0, 0.5)) -> np.ndarray:
    """Rotation matrix about an axis (Rodrigues)."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine_of(columns: np.ndarray, origin=(12.0, -30.0, 7.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    return affine


def positions(shape, affine) -> np.ndarray:
    """Physical position of every voxel, [D, H, W, 3]."""
    d, h, w = np.indices(shape)
    return np.stack([w, h, d], -1) @ affine[:3, :3].T + affine[:3, 3]


def ramp(shape, affine) -> Volume:
    values = positions(shape, affine) @ GRADIENT
    return Volume(values.astype(np.float32), affine, "ramp", "0")


def blob(shape, affine, center, width=6.0) -> Volume:
    distance = ((positions(shape, affine) - center) ** 2).sum(-1)
    values = 1000 * np.exp(-distance / (2 * width**2)) - 1000
    return Volume(values.astype(np.float32), affine, "blob", "0")


def centroid(volume: Volume) -> np.ndarray:
    weight = volume.array.astype(np.float64) + 1000
    return (positions(volume.array.shape, volume.affine) * weight[..., None]).sum((0, 1, 2)) / (
        weight.sum()
    )


def inside(grid_shape, grid_affine, shape, affine, margin: float) -> np.ndarray:
    """Mask of grid voxels at least `margin` source voxels inside the source's voxel centres."""
    to_source = np.linalg.inv(affine)
    at = positions(grid_shape, grid_affine) @ to_source[:3, :3].T + to_source[:3, 3]
    return ((at >= margin) & (at <= np.array(shape[::-1]) - 1 - margin)).all(-1)


AXES = {
    "LPS": np.diag([-0.8, -1.3, 2.0]),
    "RAS": np.diag([0.8, 1.3, 2.0]),
    "sagittal": np.array([[0, 0, -2.0], [0.8, 0, 0], [0, -1.3, 0]]),
    "oblique": rotation(25) @ np.diag([-0.8, -1.3, 2.0]),
    "sheared": np.array([[-0.8, 0.1, 0], [0, -1.3, 0.7], [0, 0, 2.0]]),
}


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.5, 1.9)])
@pytest.mark.parametrize("name", list(AXES))
def test_resampling_a_linear_function_is_exact(name, spacing, antialias) -> None:
    volume = ramp((31, 40, 45), affine_of(AXES[name]))
    out = resample(volume, spacing, antialias)
    np.testing.assert_allclose(g.spacing_of(out.affine)[::-1], spacing)
    margin = 1.0 + 4.0 * antialias
    mask = inside(out.array.shape, out.affine, volume.array.shape, volume.affine, margin)
    assert mask.sum() > 500
    expected = positions(out.array.shape, out.affine) @ GRADIENT
    assert np.abs(out.array - expected)[mask].max() < 5e-3


@pytest.mark.parametrize("name", list(AXES))
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_a_landmark_keeps_its_physical_position(name, preset) -> None:
    affine = affine_of(AXES[name])
    center = (affine @ [24.0, 17.0, 15.0, 1.0])[:3]
    volume = blob((31, 40, 45), affine, center)
    preparation = Preparation.preset(preset, crop=(84, 84, 84), size=(28, 56, 84), hu=(-1000, 1000))
    out = g.prepare_volume(volume, preparation)
    assert out.array.shape == (28, 56, 84) and out.array.dtype == np.int16
    assert nib.aff2axcodes(out.affine) == ("L", "P", "S")
    # Sampling a blob that the source's own border cuts shifts its centroid a little.
    assert np.abs(centroid(out) - centroid(volume)).max() < 0.15
    peak = np.unravel_index(out.array.argmax(), out.array.shape)[::-1]
    step = g.spacing_of(out.affine)
    assert (np.abs((out.affine @ [*peak, 1])[:3] - center) <= step).all()


@pytest.mark.parametrize("name", list(AXES))
def test_resampling_agrees_with_simpleitk(name) -> None:
    sitk = pytest.importorskip("SimpleITK")
    affine = affine_of(AXES[name])
    array = np.random.default_rng(0).normal(size=(20, 22, 24)).astype(np.float32) * 300
    spacing = (1.5, 0.9, 0.7)
    out = resample(Volume(array, affine, "", ""), spacing, antialias=False)
    mask = inside(out.array.shape, out.affine, array.shape, affine, 1e-4)
    at = positions(out.array.shape, out.affine)[mask]
    # SimpleITK cannot hold a shear: sample its index-space image at physically mapped points.
    image = sitk.GetImageFromArray(array)
    to_source = np.linalg.inv(affine)
    index = at @ to_source[:3, :3].T + to_source[:3, 3]
    picks = np.random.default_rng(1).choice(len(index), 3000)
    interpolator = [image.EvaluateAtContinuousIndex(list(map(float, index[i]))) for i in picks]
    np.testing.assert_allclose(out.array[mask][picks], interpolator, atol=0.05)


@pytest.mark.parametrize("name", ["LPS", "RAS", "sagittal", "oblique"])
def test_prepared_grid_agrees_with_simpleitk_resample(name) -> None:
    sitk = pytest.importorskip("SimpleITK")
    affine = affine_of(AXES[name])
    smooth = blob((31, 40, 45), affine, (affine @ [20.0, 21, 14, 1])[:3], 8.0).array
    image = sitk.GetImageFromArray(smooth)
    flip = np.diag([-1.0, -1, 1])
    size = g.spacing_of(affine)
    image.SetSpacing(size.tolist())
    image.SetOrigin((flip @ affine[:3, 3]).tolist())
    image.SetDirection((flip @ affine[:3, :3] / size).ravel().tolist())
    preparation = Preparation(crop=None, spacing=None, size=(28, 56, 56), antialias=False)
    grid = g.prepared_grids(smooth.shape, affine, preparation)[-1]
    reference = sitk.Image(*grid[0][::-1], sitk.sitkFloat32)
    step = g.spacing_of(grid[1])
    reference.SetSpacing(step.tolist())
    reference.SetOrigin((flip @ grid[1][:3, 3]).tolist())
    reference.SetDirection((flip @ grid[1][:3, :3] / step).ravel().tolist())
    expected = sitk.GetArrayFromImage(
        sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, -1000.0)
    )
    out = g.prepare_volume(Volume(smooth, affine, "", ""), preparation)
    mask = inside(*grid, smooth.shape, affine, 0.0)
    # Without antialiasing an oblique scan is interpolated twice here and once there.
    tolerance = 25 if name == "oblique" else 0.51
    assert np.abs(out.array - expected)[mask].max() < tolerance


@pytest.mark.parametrize("name", ["RAS", "sagittal"])
def test_one_pass_equals_the_steps_one_by_one(name) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(-900, 900, (21, 30, 33)).astype(np.float32)
    volume = Volume(array, affine_of(AXES[name]), "", "")
    preparation = Preparation(
        spacing=(1.5, 1.2, 1.0), crop=(20, 44, 35), size=(14, 28, 28), antialias=False
    )
    steps = resample(volume, preparation.spacing, antialias=False)
    steps = resize(center_crop(steps, preparation.crop), preparation.size, antialias=False)
    out = g.prepare_volume(volume, preparation)
    np.testing.assert_allclose(out.affine, steps.affine)
    assert np.abs(out.array - steps.array).max() <= 0.51


def test_crop_and_pad_keep_the_middle() -> None:
    array = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    volume = Volume(array, affine_of(AXES["RAS"]), "", "")
    out = center_crop(volume, (3, 8, 7))
    assert np.array_equal(out.array[:, 1:7], array[1:4])
    assert (out.array[:, [0, 7]] == -1000).all()
    before, after = positions(array.shape, volume.affine), positions((3, 8, 7), out.affine)
    np.testing.assert_allclose(after[:, 1:7], before[1:4])


def test_air_surrounds_a_volume_smaller_than_the_crop() -> None:
    volume = Volume(np.full((10, 10, 10), 40, np.float32), affine_of(np.eye(3)), "", "")
    out = g.prepare_volume(volume, Preparation(crop=(28, 28, 28), size=(28, 28, 28)))
    assert (out.array[9:19, 9:19, 9:19] == 40).all()
    assert np.count_nonzero(out.array == 40) == 1000
    assert (out.array == -1000).sum() == 28**3 - 1000


def test_padding_values_of_scanners_do_not_bleed() -> None:
    array = np.full((10, 10, 40), -8192, np.float32)
    array[:, :, 21:] = 0
    volume = Volume(array, affine_of(np.diag([-0.7, -1, 1])), "", "")
    preparation = Preparation(crop=None, spacing=None, size=(14, 28, 56), antialias=False)
    out = g.prepare_volume(volume, preparation).array[7, 14]
    # Voxel w lies at source position 40 / 56 * (w + 0.5) - 0.5; the edge runs from 20 to 21.
    at = 40 / 56 * (np.arange(56) + 0.5) - 0.5
    np.testing.assert_allclose(out, np.clip(at - 21, -1, 0) * 1000, atol=1)
    assert ((out > -1000) & (out < 0)).any()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("tilt", [0, 25])
def test_metal_is_clipped_before_it_spreads(tilt, antialias) -> None:
    array = np.zeros((28, 28, 28), np.float32)
    array[13:15, 13:15, 13:15] = 20000
    volume = Volume(array, affine_of(rotation(tilt) @ np.diag([-1.0, -1, 1])), "", "")
    preparation = Preparation(crop=(28, 28, 28), size=(28, 28, 28), antialias=antialias)
    out = g.prepare_volume(volume, preparation)
    # 8 mm3 of metal count as 1000 HU each, not as 20000.
    assert abs(out.array.clip(0).sum() / 8000 - 1) < 0.1


def test_shrinking_averages_what_plain_sampling_skips() -> None:
    checker = (np.indices((56, 56, 56)).sum(0) % 2 * 2000 - 1000).astype(np.float32)
    volume = Volume(checker, affine_of(np.diag([-1.0, -1, 1])), "", "")
    smooth = resize(volume, (19, 19, 19)).array[2:-2, 2:-2, 2:-2]
    rough = resize(volume, (19, 19, 19), antialias=False).array[2:-2, 2:-2, 2:-2]
    assert np.abs(smooth).max() < 20 and np.abs(rough).max() > 300


@pytest.mark.parametrize("step", [0.4, 1.0, 1.05, 2.0, 2.6, -1.3])
@pytest.mark.parametrize("antialias", [False, True])
def test_axis_weights(step, antialias) -> None:
    start = 12.0 if step < 0 else 0.3
    matrix = axis_matrix(14, start, step, 9, antialias)
    at = start + step * np.arange(9)
    margin = 2 * abs(step) if antialias else 0.5
    for position, row in zip(at, matrix, strict=True):
        if margin <= position <= 13 - margin:
            assert abs(row.sum() - 1) < 1e-12
            assert abs(row @ np.arange(14) - position) < 1e-9
    assert (matrix > -1e-12).all() and (matrix.sum(1) <= 1 + 1e-12).all()
    assert np.all(matrix[at > 14 + margin] == 0)


def test_antialiased_weights_are_the_mean_of_the_interpolant() -> None:
    values = np.random.default_rng(0).normal(size=12)
    ratio = 2.6
    width = np.sqrt(ratio**2 - 1)
    matrix = axis_matrix(12, 3.1, ratio, 3, antialias=True)
    for position, row in zip(3.1 + ratio * np.arange(3), matrix, strict=True):
        fine = position + (np.arange(200_000) + 0.5) / 200_000 * width - width / 2
        sampled = np.where((fine < -0.5) | (fine > 11.5), 0, np.interp(fine, np.arange(12), values))
        assert abs(sampled.mean() - row @ values) < 1e-4


def test_apply_axes_is_the_product_of_its_matrices() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(17, 30, 26)).astype(np.float32)
    matrices = tuple(
        axis_matrix(n, 1.2, r, m, True) for n, r, m in ((17, 1.4, 13), (30, 2.1, 14), (26, 0.5, 40))
    )
    expected = np.einsum("ad,bh,cw,dhw->abc", *matrices, array.astype(np.float64) - 5) + 5
    out = apply_axes(torch.from_numpy(array), matrices, fill=5.0)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_nearest_index() -> None:
    index = nearest_index(5, -1.0, 0.5, 14)
    assert index.tolist() == [-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1, -1, -1]


def test_orientation_files_are_identical_after_reorientation(shared_data) -> None:
    preparation = Preparation.preset("tiny", hu=(0, 255))
    prepared = []
    for name in ("RAS", "LPS", "RAI"):
        volume = read_volume(shared_data / "orientation" / f"{name}.nii.gz")
        prepared.append(g.prepare_volume(volume, preparation))
    for out in prepared[1:]:
        np.testing.assert_allclose(prepared[0].affine, out.affine, atol=1e-3)
        assert np.abs(prepared[0].array.astype(int) - out.array).max() <= 1
    assert prepared[0].array.max() > 60


def test_the_opposite_orientation_is_every_axis_the_other_way() -> None:
    """What the control `opposite_orientation` shows is what `orientation: LPS` prepares.

    To a voxel: a grid with an odd number of voxels too many is cut on one side.
    """
    affine = affine_of(AXES["RAS"])
    volume = blob((30, 40, 44), affine, (affine @ [12.0, 25.0, 15.0, 1.0])[:3])
    how = {"crop": (84, 84, 84), "size": (84, 84, 84)}
    ours = g.prepare_volume(volume, Preparation(**how)).array
    other = g.prepare_volume(volume, Preparation(orientation="LPS", **how)).array
    places = [
        np.array([(x * np.arange(84)).sum() for x in marginals(array)])
        for array in (ours, ours[::-1, ::-1, ::-1], other)
    ]
    assert np.abs(places[1] - places[2]).max() < 1.01
    assert np.abs(places[0] - places[2]).max() > 5


def marginals(array: np.ndarray) -> list[np.ndarray]:
    """Share of what is above air on each plane of each axis."""
    weight = array.astype(np.float64) + 1000
    return [weight.sum(tuple({0, 1, 2} - {axis})) / weight.sum() for axis in range(3)]


@pytest.mark.parametrize("name", list(AXES))
def test_labels_stay_with_their_scan(name) -> None:
    affine = affine_of(AXES[name])
    center = (affine @ [22.0, 20.0, 15.0, 1.0])[:3]
    volume = blob((31, 40, 45), affine, center)
    labels = Volume((volume.array > -400).astype(np.uint8) * 7, affine, "", "")
    preparation = Preparation(crop=(84, 84, 84), size=(84, 84, 84))
    scan, mask = g.prepare_volume(volume, preparation), g.prepare_labels(labels, preparation)
    assert mask.array.dtype == np.uint8 and set(np.unique(mask.array)) == {0, 7}
    np.testing.assert_allclose(mask.affine, scan.affine)
    bright = scan.array > -400
    agreement = 2 * (bright & (mask.array == 7)).sum() / (bright.sum() + (mask.array == 7).sum())
    assert agreement > 0.9
    mask_volume = Volume(mask.array / np.float32(7) * 1000 - 1000, mask.affine, "", "")
    assert np.abs(centroid(mask_volume) - center).max() < 0.3


@pytest.mark.parametrize("tilt", [0, 25])
def test_organ_volumes_and_hu_survive_preparation(shared_data, tilt) -> None:
    scan = read_volume(shared_data / "ct" / "abdomen_ct.nii.gz")
    labels = read_labels(shared_data / "ct" / "abdomen_labels.nii.gz")
    turn = np.eye(4)
    turn[:3, :3] = rotation(tilt)
    scan = Volume(scan.array, turn @ scan.affine, "", "")
    labels = Volume(labels.array, turn @ labels.affine, "", "")
    preparation = Preparation(size=(140, 280, 280), crop=(400, 400, 400))
    out, mask = g.prepare_volume(scan, preparation), g.prepare_labels(labels, preparation)
    before, after = abs(np.linalg.det(scan.affine)), abs(np.linalg.det(out.affine))
    for organ in (1, 2, 3, 5, 6, 20, 52):
        here, there = labels.array == organ, mask.array == organ
        assert abs(there.sum() * after / (here.sum() * before) - 1) < 0.05, organ
        if organ in (1, 2, 3, 5):
            assert abs(out.array[there].mean() - scan.array[here].mean()) < 6, organ


def test_same_grid() -> None:
    affine = affine_of(AXES["oblique"])
    shifted = affine.copy()
    shifted[0, 3] += 0.01
    assert g.same_grid(((5, 6, 7), affine), ((5, 6, 7), shifted))
    shifted[0, 3] += 1
    assert not g.same_grid(((5, 6, 7), affine), ((5, 6, 7), shifted))
    assert not g.same_grid(((5, 6, 7), affine), ((5, 7, 6), affine))


def test_one_slice_and_one_voxel(tmp_path: Path) -> None:
    for shape in ((1, 20, 20), (1, 1, 1)):
        volume = Volume(np.full(shape, 40, np.float32), affine_of(np.diag([-1.0, -1, 5])), "", "")
        out = g.prepare_volume(volume, Preparation(crop=(28, 28, 28), size=(28, 28, 28)))
        assert (out.array == 40).sum() == shape[0] * 5 * shape[1] * shape[2]
