"""Six ways to take the evidence out of a volume, for the robustness loss (Eq. 19).

The paper names them only ("masking, shuffling, etc."); kinds and probabilities are those of the
authors' released code. They act on patch rows, the flattened patches that the encoder embeds.
Legend: R patches, C input channels times voxels of one patch.
"""

import torch
from torch import Generator, Tensor

from photon.errors import InputError

PERTURBATIONS: dict[str, float] = {
    "shuffle_patches": 0.16,
    "shuffle_patches_and_voxels": 0.16,
    "keep_patches": 0.16,
    "keep_voxels": 0.16,
    "noise": 0.16,
    "zeros": 0.20,
}
_KEPT_PATCHES = 0.2
_KEPT_VOXELS = 0.1


def _permutation(n: int, generator: Generator, device: torch.device) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).to(device)


def _kept(n: int, share: float, exact: bool, generator: Generator, device: torch.device) -> Tensor:
    """Places of `share` of n, or of those that a draw with that probability takes."""
    if not exact:
        drawn = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float32)
        return (drawn < share).nonzero()[:, 0].to(device)
    return _permutation(n, generator, device)[: max(1, round(share * n))]


def perturb(
    rows: Tensor, kind: str, generator: Generator, channels: int = 1, exact: bool = True
) -> Tensor:
    """Perturbed copy of the patch rows of one volume (Eq. 19). Shape [R, C], dtype and device kept.

    Args:
        rows: [R, C] in [0, 1]. Give one volume at a time, or patches travel between patients.
        kind: "shuffle_patches" permutes rows; "shuffle_patches_and_voxels" also permutes the
            voxels inside, all patches alike; "keep_patches" zeroes all but 20 % of the rows;
            "keep_voxels" zeroes all but 10 % of the voxels; "noise" is uniform in [0, 1);
            "zeros" is zero.
        generator: the only source of randomness.
        channels: of each voxel; they move and stay together.
        exact: exactly these shares are kept; False keeps each with that probability, as the
            released code does.

    Raises:
        InputError: unknown kind.
    """
    count, width = len(rows), rows.shape[1] // channels
    voxels = rows.unflatten(1, (channels, width))
    if kind == "shuffle_patches":
        return rows[_permutation(count, generator, rows.device)]
    if kind == "shuffle_patches_and_voxels":
        shuffled = voxels[_permutation(count, generator, rows.device)]
        return shuffled[..., _permutation(width, generator, rows.device)].flatten(1)
    if kind == "keep_patches":
        kept = _kept(count, _KEPT_PATCHES, exact, generator, rows.device)
        return torch.zeros_like(rows).index_copy(0, kept, rows[kept])
    if kind == "keep_voxels":
        kept = _kept(width, _KEPT_VOXELS, exact, generator, rows.device)
        return torch.zeros_like(voxels).index_copy(2, kept, voxels[..., kept]).flatten(1)
    if kind == "noise":
        noise = torch.rand(
            rows.shape, generator=generator, device=generator.device, dtype=torch.float32
        )
        return noise.to(rows.device, rows.dtype)
    if kind == "zeros":
        return torch.zeros_like(rows)
    raise InputError(
        f"perturbation {kind!r} does not exist. Take one of {', '.join(PERTURBATIONS)}."
    )


def sample_perturbation(generator: Generator) -> str:
    """A kind drawn with the probabilities of `PERTURBATIONS`."""
    weights = torch.tensor(list(PERTURBATIONS.values()), device=generator.device)
    return list(PERTURBATIONS)[int(torch.multinomial(weights, 1, generator=generator))]
