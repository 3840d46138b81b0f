"""Phantoms: every stated fact is re-derived from the voxels by brute force."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from photon.phantoms.layout import (
    ATTENUATIONS,
    BY_NAME,
    EFFUSION,
    LESION_OFFSET,
    NAMES,
    ORGANS,
    SIZES,
    PhantomConfig,
)
from photon.phantoms.phantom import make_patient, make_phantom

SEEDS = range(20)


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(seed) for seed in SEEDS]


def world(affine, index):
    d, h, w = index
    return (affine @ np.array([w, h, d, 1.0]))[:3]


def centre(phantom, name):
    mask = phantom.labels == BY_NAME[name].id
    return world(phantom.affine, np.argwhere(mask).mean(axis=0)) if mask.any() else None


def test_same_seed_same_bits_and_other_seed_other_bits():
    first, again, other = make_phantom(3), make_phantom(3), make_phantom(4)
    assert first.array.dtype == np.int16 and first.labels.dtype == np.uint8
    assert np.array_equal(first.array, again.array) and np.array_equal(first.labels, again.labels)
    assert first.facts == again.facts
    assert not np.array_equal(first.labels, other.labels)
    shifted = np.roll(first.array, 1, axis=0)
    assert np.corrcoef(first.array[:, 2, 2], shifted[:, 2, 2])[0, 1] < 0.5, "noise repeats"


def test_shape_ids_and_affine(phantoms):
    for phantom in phantoms:
        assert phantom.array.shape == phantom.labels.shape == (112, 112, 112)
        assert set(np.unique(phantom.labels)) - {0} <= set(NAMES)
        assert np.allclose(np.linalg.norm(phantom.affine[:3, :3], axis=0), 3.0)
        assert np.allclose(world(phantom.affine, (55.5, 55.5, 55.5)), 0.0)


def test_axes_are_the_patients(phantoms):
    """RAS+: x to the patient's right, y to the front, z to the head."""
    for phantom in phantoms:
        place = {name: centre(phantom, name) for name in BY_NAME}
        assert place["lung_right"][0] > place["heart"][0] > place["lung_left"][0]
        assert place["liver"][0] > 20, "the liver lies on the right"
        assert place["heart"][1] > place["lung_left"][1], "the heart lies in front"
        assert place["heart"][2] > place["liver"][2], "the heart lies above the liver"
        for name in ("kidney_right", "kidney_left"):
            if place[name] is not None:
                assert (place[name][0] > 0) == name.endswith("right")
                assert place[name][1] < place["liver"][1], "kidneys lie at the back"


def test_facts_are_in_the_voxels(phantoms):
    for phantom in phantoms:
        for name, fact in phantom.facts["organs"].items():
            label = BY_NAME[name].id
            tissue = phantom.labels == label
            lesions = phantom.labels == label + LESION_OFFSET
            assert fact["present"] == bool(tissue.any())
            millilitres = (tissue.sum() + lesions.sum()) * 0.027
            assert fact["volume_ml"] == pytest.approx(millilitres, abs=0.06)
            parts, count = np.zeros((), int), 0
            if lesions.any():
                parts, count = ndimage.label(lesions, np.ones((3, 3, 3)))
            assert count == len(fact["lesions"]) <= 2
            if not fact["present"]:
                assert fact["size"] is None and fact["mean_hu"] is None and count == 0
                continue
            mean = phantom.array[tissue].mean()
            assert fact["mean_hu"] == pytest.approx(float(mean), abs=0.06)
            assert tissue.sum() > 1000, "enough tissue is left to see its attenuation"
            for number in range(1, count + 1):
                own = phantom.array[parts == number]
                assert own.size > 300, "a lesion is visible"
                assert (own.mean() > mean) == fact["lesions"][0]["denser"]
                assert abs(own.mean() - mean) > 150
        for side, label in EFFUSION.items():
            fluid = phantom.labels == label
            assert phantom.facts["effusion"][side] == bool(fluid.any())
            if fluid.any():
                assert abs(phantom.array[fluid].mean() - 10) < 3 and fluid.sum() > 3000


def test_lesions_lie_inside_their_organ(phantoms):
    """A lesion's voxels border only on its own organ, itself, or what borders the organ."""
    for phantom in phantoms:
        for organ in ORGANS:
            lesion = phantom.labels == organ.id + LESION_OFFSET
            if not lesion.any():
                continue
            corner, stop = (f(np.argwhere(lesion), axis=0) for f in (np.min, np.max))
            box = tuple(slice(a - 1, b + 2) for a, b in zip(corner, stop))
            shell = ndimage.binary_dilation(lesion[box]) & ~lesion[box]
            inside = (phantom.labels[box][shell] == organ.id).mean()
            assert inside > 0.5, f"{organ.name}: {inside:.2f} of the shell is organ"


def test_effusion_lies_at_the_back_and_base_of_its_lung(phantoms):
    checked = 0
    for phantom, (side, label) in itertools.product(phantoms, EFFUSION.items()):
        fluid = np.argwhere(phantom.labels == label)
        if len(fluid):
            lung = centre(phantom, f"lung_{side}")
            place = world(phantom.affine, fluid.mean(axis=0))
            assert place[1] < lung[1] and place[2] < lung[2] and abs(place[0] - lung[0]) < 15
            checked += 1
    assert checked > 5


def test_drawn_classes_agree_with_the_reference_ranges(phantoms):
    reference = PhantomConfig().reference()
    seen = set()
    for phantom in phantoms:
        for name, fact in phantom.facts["organs"].items():
            if fact["present"]:
                low, high = reference[name]["volume_ml"]
                volume, hu = fact["volume_ml"], fact["mean_hu"]
                assert SIZES[int(volume > low) + int(volume > high)] == fact["size"], name
                low, high = reference[name]["hu"]
                assert ATTENUATIONS[int(hu > low) + int(hu > high)] == fact["attenuation"], name
                seen |= {(name, "size", fact["size"]), (name, "hu", fact["attenuation"])}
    assert len(seen) == 6 * len(ORGANS), "every class of every organ occurs"


def test_no_organ_touches_the_border(phantoms):
    for phantom in phantoms:
        faces = [np.take(phantom.labels, i, axis=a) for a in range(3) for i in (0, -1)]
        touching = set(np.unique(np.concatenate([face.ravel() for face in faces])))
        assert not touching & {organ.id for organ in ORGANS}


def test_patch_means_separate_the_attenuation_classes(phantoms):
    """A 14^3 patch that is nine tenths organ shows the class: what the patch embedding can see."""
    reference = PhantomConfig().reference()
    wrong = total = 0
    for phantom in phantoms:
        labels = phantom.labels.reshape(8, 14, 8, 14, 8, 14).swapaxes(1, 2).swapaxes(3, 4)
        labels = labels.swapaxes(2, 3).reshape(512, -1)
        values = phantom.array.reshape(8, 14, 8, 14, 8, 14).swapaxes(1, 2).swapaxes(3, 4)
        values = values.swapaxes(2, 3).reshape(512, -1)
        for name in ("liver", "lung_right", "lung_left"):
            fact = phantom.facts["organs"][name]
            full = (labels == BY_NAME[name].id).mean(axis=1) > 0.97
            low, high = reference[name]["hu"]
            for mean in values[full].mean(axis=1):
                wrong += ATTENUATIONS[int(mean > low) + int(mean > high)] != fact["attenuation"]
                total += 1
    assert total > 50 and wrong / total < 0.05, (wrong, total)


def test_missing_and_effusion_frequencies():
    config = PhantomConfig(shape=(28, 28, 28), spacing=12.0)
    facts = [make_phantom(seed, config).facts for seed in range(200)]
    spleen = np.mean([not f["organs"]["spleen"]["present"] for f in facts])
    assert abs(spleen - config.missing_probability) < 0.1
    effusion = np.mean([f["effusion"]["left"] for f in facts])
    assert abs(effusion - config.effusion_probability) < 0.1
    never = PhantomConfig(shape=(28, 28, 28), missing_probability=0.0, effusion_probability=0.0)
    fact = make_phantom(5, never).facts
    assert all(o["present"] for o in fact["organs"].values())
    assert not any(fact["effusion"].values())


def test_smaller_grid_keeps_physical_size():
    fine = make_phantom(7).facts["organs"]
    coarse = make_phantom(7, PhantomConfig(shape=(56, 56, 56), spacing=6.0)).facts["organs"]
    for name, fact in fine.items():
        assert coarse[name]["present"] == fact["present"]
        assert coarse[name]["volume_ml"] == pytest.approx(fact["volume_ml"], rel=0.15)


def test_a_patient_keeps_organs_and_changes_lesions():
    """Lesions of the two label maps, counted and measured by brute force."""
    outcomes = set()
    for seed in range(12):
        pair = make_patient(seed, PhantomConfig(lesion_radius=(4, 8)))
        assert not np.array_equal(pair[0].array, pair[1].array)
        for organ in ORGANS:
            first, second = (p.facts["organs"][organ.name] for p in pair)
            for key in ("present", "size", "attenuation"):
                assert first[key] == second[key]
            if not first["present"]:
                continue
            if "lung" not in organ.name:  # fluid takes room from a lung
                assert first["volume_ml"] == pytest.approx(second["volume_ml"], rel=0.05)
            places = [world(p.affine, np.argwhere(p.labels == organ.id).mean(0)) for p in pair]
            if not (first["lesions"] or second["lesions"]) and "lung" not in organ.name:
                assert np.linalg.norm(places[0] - places[1]) < 12, "the patient hardly moved"
            maps = [p.labels == organ.id + LESION_OFFSET for p in pair]
            before, after = (ndimage.label(m, np.ones((3, 3, 3)))[1] for m in maps)
            assert (before, after) == (len(first["lesions"]), len(second["lesions"]))
            if before == after == 1:
                ratio = (maps[1].sum() / maps[0].sum()) ** (1 / 3)
                assert ratio < 0.88 or 0.95 < ratio < 1.05 or ratio > 1.14, ratio
                outcomes.add("grown" if ratio > 1.1 else "shrunk" if ratio < 0.9 else "stable")
            elif not before or not after:
                outcomes.add("new" if after else "resolved" if before else "none")
    assert outcomes == {"grown", "shrunk", "stable", "new", "resolved", "none"}


def test_another_scanner_shows_the_same_patient():
    """Spacing, field of view, noise and attenuation change; sizes in mm do not."""
    options = {"shape": (64, 128, 128), "spacing": (5, 2.5, 2.5), "field": (20 / 21,) * 3}
    usual = make_phantom(7, PhantomConfig(noise_hu=0))
    other = make_phantom(7, PhantomConfig(**options, noise_hu=0, hu_shift=20))
    assert np.allclose(np.linalg.norm(other.affine[:3, :3], axis=0), (2.5, 2.5, 5))
    for name, fact in usual.facts["organs"].items():
        seen = other.facts["organs"][name]
        assert seen["volume_ml"] == pytest.approx(fact["volume_ml"], rel=0.04, abs=0.1)
        if fact["present"]:
            assert seen["mean_hu"] == pytest.approx(fact["mean_hu"] + 20, abs=0.6)
            assert np.allclose(centre(usual, name), centre(other, name), atol=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (8, 112, 112)}, "at least 28"),
        ({"spacing": 0.0}, "spacing"),
        ({"orientation": "LPX"}, "orientation='LPX'"),
        ({"lesion_radius": (8.0, 4.0)}, "smallest, largest"),
        ({"lesion_probabilities": (0.5, 0.5, 0.5)}, "sum to 1"),
        ({"missing_probability": 1.5}, r"missing_probability: 1.5 is not float in \[0, 1\]"),
    ],
)
def test_illegal_configuration(change, message):
    with pytest.raises(ValueError, match=message):
        PhantomConfig(**change)
