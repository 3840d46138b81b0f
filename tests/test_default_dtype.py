"""What is drawn at random does not depend on torch's default dtype, which bf16 training changes."""

import pytest
import torch

from photon.losses import Routing
from photon.packing import Segments
from photon.pruning.base import PruneContext
from photon.pruning.baselines.random import RandomPruner
from photon.pruning.its import PhotonPruner
from photon.volume.perturb import perturb


def routing(generator):
    drawn = Routing.draw(torch.arange(5000), 5000, 0.3, 0.3, "paper", generator)
    return drawn.robust.float() + 2 * drawn.flip.float()


def random_keep(generator):
    pairs, none = Segments([4000, 3000]), torch.zeros(0, 1, 1)
    context = PruneContext(none, none, none, Segments([0, 0]), pairs, pairs, [0, 1])
    return RandomPruner().select(context, generator=generator).keep


def noise_on_theta(generator):
    return PhotonPruner(theta_noise=0.1)._noise(torch.ones(16, dtype=torch.float64), generator)


def noise_volume(generator):
    return perturb(torch.zeros(8, 5, dtype=torch.float64), "noise", generator)


@pytest.mark.parametrize("draw", [routing, random_keep, noise_on_theta, noise_volume])
def test_draws_are_those_of_float32(draw) -> None:
    expected = draw(torch.Generator().manual_seed(1))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = draw(torch.Generator().manual_seed(1))
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected)
