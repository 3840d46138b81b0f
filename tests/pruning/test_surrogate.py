"""Eq. 11-17: loop reference in float64, the signs of A.1.3, and the true change of the loss."""

import math
from dataclasses import replace

import pytest
import torch

from photon.packing import Segments
from photon.pruning.retention import retention_probability
from photon.pruning.surrogate import DropTokens, SurrogateConfig, row_scores, surrogate_gradient
from tests.helpers import photon_model, random_batch

PAIRS = [5, 3, 4]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case(seed=0):
    pairs = Segments(PAIRS)
    keep = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1], dtype=torch.bool)
    x, g = draw(12, 6, seed=seed), draw(12, 6, seed=seed + 1) * keep[:, None]
    q = draw(12, seed=seed + 2).sigmoid()
    return x, g, q, keep, pairs


def loop_reference(x, g, q, keep, pairs, c):
    """Eq. 12-17 token by token; sign and statistics by the profile."""
    out = []
    for part in pairs:
        n = range(part.start, part.stop)
        eta = {j: sum(float(a * b) for a, b in zip(x[j], g[j], strict=True)) for j in n}
        sign = {"paper": lambda e: e, "taylor": lambda e: -e, "magnitude": abs}[c.direction]
        eta = {j: sign(e) for j, e in eta.items()}
        counted = [j for j in n if keep[j] or c.statistics == "all"]
        mean = sum(eta[j] for j in counted) / len(counted)
        std = math.sqrt(sum((eta[j] - mean) ** 2 for j in counted) / len(counted))
        z = {j: max(-c.clip, min(c.clip, (eta[j] - mean) / max(std, c.eps_std))) for j in n}
        d = {j: 0.5 - (0.5 + 0.5 * math.tanh(z[j])) for j in n}
        if c.recentre:
            middle = sum(d.values()) / len(d)
            d = {j: v - middle for j, v in d.items()}
        m = {j: sum(abs(float(a * b)) for a, b in zip(x[j], g[j], strict=True)) for j in n}
        m_mean = sum(m[j] for j in counted) / len(counted)
        s = {j: max(c.s_min, min(c.s_max, m[j] / max(m_mean, 1e-6))) for j in n}
        out += [c.beta * d[j] * s[j] * max(float(q[j] * (1 - q[j])), c.eps_sat) for j in n]
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("direction", ["paper", "taylor", "magnitude"])
@pytest.mark.parametrize("statistics", ["kept", "all"])
@pytest.mark.parametrize("recentre", [False, True])
def test_eq_12_to_17(direction, statistics, recentre):
    config = SurrogateConfig(direction, statistics, recentre)
    x, g, *rest = case()
    torch.testing.assert_close(
        surrogate_gradient(*row_scores(x, g), *rest, config),
        loop_reference(x, g, *rest, config),
        atol=1e-12,
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    "direction, useful_eta", [("paper", 1.0), ("taylor", -1.0), ("magnitude", 1.0)]
)
def test_signs_of_a_1_3(direction, useful_eta):
    """d < 0 for the token that a direction calls informative: descent raises its q, and lowers q
    of the other; so theta falls and rho rises for it (A.1.3)."""
    pairs = Segments([2])
    x = torch.ones(2, 1, dtype=torch.float64)
    g = torch.tensor([[useful_eta], [0.1 * useful_eta]], dtype=torch.float64)
    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    rho = torch.tensor([0.6, 0.55], dtype=torch.float64, requires_grad=True)
    q = torch.sigmoid((rho - theta) / 0.2)
    keep = torch.ones(2, dtype=torch.bool)
    config = SurrogateConfig(direction)
    grad_q = surrogate_gradient(*row_scores(x, g), q.detach(), keep, pairs, config)
    assert grad_q[0] < 0 < grad_q[1]
    grad_theta, grad_rho = torch.autograd.grad(q[0], [theta, rho], grad_q[0])
    assert grad_theta > 0 and grad_rho[0] < 0


def test_equal_scores_give_zero_and_finite_gradients():
    pairs = Segments([3])
    x, g = torch.ones(3, 2).double(), torch.ones(3, 2).double()
    q, keep = torch.full((3,), 0.7).double(), torch.tensor([True, True, False])
    grad = surrogate_gradient(*row_scores(x, g), q, keep, pairs, SurrogateConfig())
    assert torch.equal(grad, torch.zeros(3).double())


def drop(hidden, q, keep, weight, config, monitor):
    pairs = Segments([3, 3])
    row = torch.tensor([0, 1, 2, 0, 1, 2])
    rows, kept = row[keep], keep.nonzero()[:, 0]
    at = torch.arange(len(rows))
    return DropTokens.apply(hidden, q, rows, at, kept, weight, pairs, config, monitor)


def test_drop_gathers_forward_and_scatters_backward():
    """Eq. 11; two questions share the rows of one volume, so their gradients add up."""
    hidden, q = draw(3, 4).requires_grad_(), torch.full((6,), 0.6).double().requires_grad_()
    keep = torch.tensor([1, 0, 1, 1, 1, 0], dtype=torch.bool)
    out = drop(hidden, q, keep, torch.tensor([0.5, 0.5]), SurrogateConfig(), {})
    assert torch.equal(out, hidden[[0, 2, 0, 1]])
    upstream = draw(4, 4, seed=5)
    out.backward(upstream)
    expected = torch.stack([upstream[0] + upstream[2], upstream[3], upstream[1]])
    torch.testing.assert_close(hidden.grad, expected)


def test_surrogate_scales_with_the_weight_of_a_question_and_not_with_its_loss():
    """A batch is the average of its samples: halving the batch's weights halves dL/dq, and a
    question of weight zero gets none, whatever gradient reaches its rows."""
    keep = torch.tensor([1, 0, 1, 1, 1, 0], dtype=torch.bool)
    upstream = draw(4, 4, seed=5)

    def gradient(weights):
        hidden, q = draw(3, 4).requires_grad_(), torch.full((6,), 0.6).double().requires_grad_()
        weight = torch.tensor(weights, dtype=torch.float64)
        out = drop(hidden, q, keep, weight, SurrogateConfig(), {})
        per_row = weight[torch.tensor([0, 0, 1, 1])][:, None]
        out.backward(upstream * per_row)
        return q.grad

    whole, half = gradient([1.0, 1.0]), gradient([0.5, 0.25])
    torch.testing.assert_close(half[:3], whole[:3] * 0.5)
    torch.testing.assert_close(half[3:], whole[3:] * 0.25)
    assert torch.equal(gradient([1.0, 0.0])[3:], torch.zeros(3).double())


def test_the_papers_eps_sat_never_acts_at_its_tau():
    """|rho - theta| < 1, so at tau 0.2 q (1 - q) > 6.6e-3: two of Table 8's settings are one."""
    rho = torch.linspace(0, 1, 101, dtype=torch.float64)
    theta = torch.tensor([1e-9, 0.1, 0.5, 0.9, 1 - 1e-9], dtype=torch.float64)
    pairs = Segments([len(rho)] * len(theta))
    x, g = draw(pairs.total, 6), draw(pairs.total, 6, seed=1)
    keep = torch.ones(pairs.total, dtype=torch.bool)

    def gradient(tau, eps_sat):
        q = retention_probability(rho.repeat(len(theta)), theta, tau, pairs)
        return surrogate_gradient(
            *row_scores(x, g), q, keep, pairs, SurrogateConfig(eps_sat=eps_sat)
        )

    assert torch.equal(gradient(0.2, 5e-3), gradient(0.2, 1e-3))
    acts = (gradient(0.2, 1e-2) != gradient(0.2, 5e-3)).view(len(theta), -1)
    assert acts[[0, -1]].any(1).all() and not acts[1:-1].any()
    assert not torch.equal(gradient(0.1, 5e-3), gradient(0.1, 1e-3))


@pytest.mark.parametrize("bad", [{"direction": "up"}, {"eps_std": 0.0}, {"s_min": 3.0}])
def test_illegal_constants_are_named(bad):
    with pytest.raises(ValueError, match=f"pruner.{next(iter(bad))}"):
        SurrogateConfig(**bad)


def test_taylor_follows_the_true_change_of_the_loss_and_the_paper_opposes_it():
    """Shrink each kept token's activation a little, as removal does to first order, and measure
    the loss: dL/dq must be negative (q rises) where the loss grows. This is the finite-difference
    statement of A.1.4, on a whole model."""
    model = photon_model(layer=0.5, keep=0.9).eval()
    batch, _, _ = random_batch(questions=((4,),), shapes=[(6, 8, 8)])
    correlation = {}
    for direction in ("taylor", "paper"):
        model.pruner.surrogate = replace(model.pruner.surrogate, direction=direction)
        out = model(batch, "hard")
        out.selection.prob.retain_grad()
        loss_of(out).backward()
        surrogate = out.selection.prob.grad[out.selection.keep]
        change = torch.stack([shrunk(model, batch, j) for j in out.selection.keep_idx])
        pair = torch.stack([change, surrogate])
        correlation[direction] = torch.corrcoef(pair)[0, 1].item()
    assert correlation["taylor"] < -0.7
    assert correlation["paper"] > 0.7


def loss_of(out):
    return torch.nn.functional.cross_entropy(out.answers.logits, out.answers.targets)


def shrunk(model, batch, token, step=1e-4):
    """(loss with token j scaled by 1 - step, minus loss) / step."""
    factor = torch.ones(batch.prefixes.total + batch.suffixes.total, 1, dtype=torch.float64)
    factor[batch.visual_rows[token]] = 1 - step
    with torch.no_grad():
        trunk = model.trunk(batch, model.encode(batch), model.cut)
        selection = model.select(trunk)

        def loss(trunk):
            hidden = model.decoder.tail(trunk, selection, model.cut, model.pruner)
            answers = model.answers(batch, hidden)
            return torch.nn.functional.cross_entropy(answers.logits, answers.targets)

        return (loss(replace(trunk, hidden=trunk.hidden * factor)) - loss(trunk)) / step
