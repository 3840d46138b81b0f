"""The surrogate's share of a gradient, against what the surrogate itself promises."""

from dataclasses import replace

import pytest

from photon.study.gradient_share import gradient_shares
from tests.helpers import photon_model, random_batch

DIRECTIONS = ("paper", "taylor", "magnitude", "gate")


@pytest.fixture(scope="module")
def batch():
    return random_batch()[0]


def test_shares_are_linear_in_beta_and_alike_for_both_signs(batch):
    model = photon_model(layer=0.5).eval()
    before = model.pruner.surrogate
    shares = gradient_shares(model, batch, DIRECTIONS)
    assert model.pruner.surrogate is before
    assert all(value > 0 for value in shares.values())
    assert shares["paper"] == pytest.approx(shares["taylor"])  # d changes its sign and no more
    model.pruner.surrogate = replace(before, beta=3 * before.beta)
    tripled = gradient_shares(model, batch, DIRECTIONS)
    assert tripled == pytest.approx({d: 3 * value for d, value in shares.items()})


def test_a_score_without_gradient_adds_nothing(batch):
    model = photon_model(layer=0.5, score_gradient=False)
    assert gradient_shares(model, batch, ("taylor",)) == {"taylor": 0.0}
