"""The six perturbations keep what they promise and destroy the rest."""

import pytest
import torch

from photon.errors import InputError
from photon.volume.perturb import PERTURBATIONS, perturb, sample_perturbation

ROWS = torch.arange(1, 50 * 40 + 1, dtype=torch.float64).reshape(50, 40)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", list(PERTURBATIONS))
def test_a_perturbation_is_new_reproducible_and_leaves_its_input_alone(kind) -> None:
    rows = ROWS.clone()
    out = perturb(rows, kind, seeded())
    assert out.shape == rows.shape and out.dtype == rows.dtype
    assert torch.equal(rows, ROWS) and not torch.equal(out, rows)
    assert torch.equal(out, perturb(rows, kind, seeded()))
    if kind != "zeros":
        assert not torch.equal(out, perturb(rows, kind, seeded(1)))
    out.zero_()
    assert torch.equal(rows, ROWS)


def test_shuffled_patches_stay_whole() -> None:
    out = perturb(ROWS, "shuffle_patches", seeded())
    assert torch.equal(out[out[:, 0].argsort()], ROWS)


def test_shuffled_voxels_move_alike_in_all_patches() -> None:
    out = perturb(ROWS, "shuffle_patches_and_voxels", seeded())
    assert torch.equal(out.flatten().sort().values, ROWS.flatten())
    by_patch = out[out.min(dim=1).values.argsort()]
    order = (by_patch[0] - 1).long()
    assert torch.equal(by_patch, ROWS[:, order]) and not torch.equal(order, order.sort().values)


def test_kept_patches_and_voxels() -> None:
    out = perturb(ROWS, "keep_patches", seeded())
    kept = out.abs().sum(1) > 0
    assert kept.sum() == 10 and torch.equal(out[kept], ROWS[kept])
    out = perturb(ROWS, "keep_voxels", seeded())
    kept = out.abs().sum(0) > 0
    assert kept.sum() == 4 and torch.equal(out[:, kept], ROWS[:, kept])
    assert (perturb(ROWS[:1], "keep_patches", seeded()) != 0).all()  # at least one patch stays


def test_as_released_patches_and_voxels_are_kept_each_with_its_probability() -> None:
    """Numbers of kept rows and columns are binomial: mean and variance over 2,000 draws."""
    generator, rows = seeded(3), torch.ones(50, 40)
    for kind, n, share in (("keep_patches", 50, 0.2), ("keep_voxels", 40, 0.1)):
        drawn = [perturb(rows, kind, generator, exact=False) for _ in range(2000)]
        side = 1 if kind == "keep_patches" else 0
        counts = torch.tensor([float(out.any(side).sum()) for out in drawn])
        deviation = (n * share * (1 - share)) ** 0.5
        assert abs(counts.mean() - n * share) < 5 * deviation / 2000**0.5
        assert abs(counts.std() / deviation - 1) < 0.1
    out = perturb(ROWS, "keep_patches", seeded(), exact=False)
    kept = out.any(1)
    assert torch.equal(out[kept], ROWS[kept]) and 0 < kept.sum() < 50


@pytest.mark.parametrize("kind", ["shuffle_patches_and_voxels", "keep_voxels"])
def test_the_channels_of_a_voxel_stay_together(kind) -> None:
    """Three channels, each 1,000 above the one before, are still that after it."""
    plain = ROWS / ROWS.max() + 1  # nowhere zero
    rows = torch.cat([plain, plain + 1000, plain + 2000], 1)
    out = perturb(rows, kind, seeded(), channels=3).unflatten(1, (3, -1))
    assert torch.equal(out[:, 0], perturb(plain, kind, seeded()))
    kept = out[:, 0] != 0
    for c in (1, 2):
        torch.testing.assert_close(out[:, c], torch.where(kept, out[:, 0] + 1000 * c, 0.0))


def test_noise_and_zeros() -> None:
    noise = perturb(torch.zeros(200, 200), "noise", seeded())
    assert 0 <= noise.min() and noise.max() < 1 and abs(noise.mean() - 0.5) < 0.01
    assert not perturb(ROWS, "zeros", seeded()).any()


def test_kinds_are_drawn_with_their_probabilities() -> None:
    generator = seeded()
    drawn = [sample_perturbation(generator) for _ in range(6000)]
    assert abs(sum(PERTURBATIONS.values()) - 1) < 1e-12 and len(PERTURBATIONS) == 6
    for kind, probability in PERTURBATIONS.items():
        # five standard deviations
        assert abs(drawn.count(kind) / 6000 - probability) < 5 * (0.16 * 0.84 / 6000) ** 0.5


def test_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="'blur'.*shuffle_patches"):
        perturb(ROWS, "blur", seeded())
