"""Eq. 3-10 and 18-20 against loops in float64, written from the paper and nothing else."""

import math

import pytest
import torch

from photon.losses import band_loss, flip_loss, pointing_loss, robust_loss
from photon.packing import Segments
from photon.pruning.base import PruneContext
from photon.pruning.its import PhotonPruner
from photon.pruning.retention import (
    budget_counts,
    budget_threshold,
    hard_mask,
    retention_probability,
    straight_through,
)
from photon.pruning.saliency import (
    centrality,
    instruction_saliency,
    instruction_weights,
    min_max,
)
from photon.pruning.threshold import ThresholdPredictor, threshold_features

N, K, H = 4, 2, 6
TEXT, VISUAL, VOLUME_OF = [3, 1, 5, 2], [7, 4], [0, 0, 1, 1]


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def states():
    return rows(sum(TEXT), N, H), rows(sum(TEXT), K, H, seed=1), rows(sum(VISUAL), K, H, seed=2)


def loop_centrality(q, k):
    c = []
    for t in range(len(q)):
        per_head = [
            sum(
                max(float(q[t, h] @ k[o, h // (N // K)]) / math.sqrt(H), 0.0)
                for o in range(len(q))
                if o != t
            )
            for h in range(N)
        ]
        c.append(sum(per_head) / N)
    return c


def loop_saliency(q, weights, k_visual):
    u = []
    for key in k_visual:
        per_head = [
            sum(
                float(w * (q[t, h] @ key[h // (N // K)])) / math.sqrt(H)
                for t, w in enumerate(weights)
            )
            for h in range(N)
        ]
        u.append(sum(per_head) / N)
    return u


def test_eq_3_to_5(states):
    q, k, k_visual = states
    text, visual = Segments(TEXT), Segments(VISUAL)
    weights = instruction_weights(q, k, text)
    u = instruction_saliency(q, weights, k_visual, text, visual, VOLUME_OF)
    rho = min_max(u, Segments([VISUAL[v] for v in VOLUME_OF]))
    got_c = centrality(q, k, text)
    expected_u, expected_rho = [], []
    for i, rows_i in enumerate(text):
        c = loop_centrality(q[rows_i], k[rows_i])
        torch.testing.assert_close(got_c[rows_i], torch.tensor(c, dtype=torch.float64))
        total = sum(c)
        w = [x / total if total else 1 / len(c) for x in c]
        torch.testing.assert_close(weights[rows_i], torch.tensor(w, dtype=torch.float64))
        one = loop_saliency(q[rows_i], w, k_visual[list(visual)[VOLUME_OF[i]]])
        expected_u += one
        expected_rho += [(x - min(one)) / (max(one) - min(one)) for x in one]
    torch.testing.assert_close(u, torch.tensor(expected_u, dtype=torch.float64))
    torch.testing.assert_close(rho, torch.tensor(expected_rho, dtype=torch.float64))


def test_one_instruction_token_and_no_positive_affinity_weigh_uniformly():
    text = Segments([1, 2])
    q, k = rows(3, N, H).abs(), -rows(3, K, H, seed=1).abs()
    assert instruction_weights(q, k, text).tolist() == [1.0, 0.5, 0.5]


def test_constant_saliency_keeps_everything_with_finite_gradients():
    u = torch.full((5,), 0.3, dtype=torch.float64, requires_grad=True)
    rho = min_max(u, Segments([5]))
    assert rho.tolist() == [1.0] * 5
    rho.sum().backward()
    assert torch.equal(u.grad, torch.zeros(5, dtype=torch.float64))


def quantile(values, level):
    ordered = sorted(values)
    place = (len(ordered) - 1) * level
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def loop_features(u, rho):
    mean = lambda x: sum(x) / len(x)  # noqa: E731
    std = lambda x: math.sqrt(mean([(v - mean(x)) ** 2 for v in x]))  # noqa: E731
    slog = [math.copysign(math.log(1 + abs(v)), v) for v in u]
    return [
        mean(rho), std(rho), min(rho), max(rho), quantile(rho, 0.25), quantile(rho, 0.5),
        mean(u), std(u), min(u), max(u), mean(slog), max(slog),
    ]  # fmt: skip


def test_eq_6_descriptor_of_ragged_questions():
    pairs = Segments([7, 4, 1, 6])
    u = rows(pairs.total)
    rho = min_max(u, pairs)
    got = threshold_features(u, rho, pairs)
    for i, part in enumerate(pairs):
        expected = loop_features(u[part].tolist(), rho[part].tolist())
        torch.testing.assert_close(got[i], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_eq_7_threshold(scale):
    predictor = ThresholdPredictor(5, scale).double()
    z = rows(3, 12)
    first, second = predictor.mlp[0], predictor.mlp[2]
    for i in range(3):
        hidden = [
            0.5 * x * (1 + math.erf(x / math.sqrt(2)))
            for x in (first.weight @ z[i] + first.bias).tolist()
        ]
        logit = sum(w * h for w, h in zip(second.weight[0].tolist(), hidden, strict=True))
        expected = scale / (1 + math.exp(-logit - second.bias.item()))
        assert predictor(z)[i].item() == pytest.approx(expected, abs=1e-12)


def test_eq_8_to_10():
    pairs = Segments([3, 2])
    rho = torch.tensor([0.0, 0.5, 1.0, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([0.5, 0.45], dtype=torch.float64)
    q = retention_probability(rho, theta, 0.2, pairs)
    expected = [
        1 / (1 + math.exp(-(r - t) / 0.2))
        for r, t in zip(rho.tolist(), [0.5, 0.5, 0.5, 0.45, 0.45], strict=True)
    ]
    torch.testing.assert_close(q, torch.tensor(expected, dtype=torch.float64))
    mask = hard_mask(q)
    assert mask.tolist() == [False, False, True, False, True]
    through = straight_through(q, mask)
    assert through.tolist() == mask.double().tolist()
    slope = torch.autograd.grad(through.sum(), rho, retain_graph=True)[0]
    torch.testing.assert_close(slope, (q * (1 - q) / 0.2).detach())


def context(text=TEXT, training=False):
    q, k, k_visual = rows(sum(text), N, H), rows(sum(text), K, H, seed=1), rows(11, K, H, seed=2)
    pairs = Segments([VISUAL[v] for v in VOLUME_OF])
    return PruneContext(
        q, k, k_visual, Segments(text), Segments(VISUAL), pairs, VOLUME_OF, training
    )


def test_theta_at_one_keeps_the_top_token():
    pruner = PhotonPruner(hidden=4).double()
    torch.nn.init.constant_(pruner.predictor.mlp[2].bias, 1e3)
    selection = pruner.select(context())
    assert selection.counts.tolist() == [1, 1, 1, 1]
    for part in selection.pairs:
        assert selection.keep[part].int().argmax() == selection.scores[part].argmax()


def test_a_question_without_instruction_keeps_everything():
    with pytest.warns(UserWarning, match="without instruction tokens"):
        selection = PhotonPruner(hidden=4).double().select(context([3, 0, 5, 2]), keep=2)
    assert selection.counts.tolist() == [2, 7, 2, 2]


@pytest.mark.parametrize("keep", [0.3, 2, torch.tensor([1, 7, 4, 3])])
def test_budget_is_met_exactly_and_theta_explains_it(keep):
    pruner = PhotonPruner(hidden=4, tau=1e-4).double()
    selection = pruner.select(context(), keep=keep)
    pairs = selection.pairs
    counts = budget_counts(keep, pairs)
    assert selection.counts.tolist() == counts.tolist()
    theta = budget_threshold(selection.scores, counts, pairs)
    above = selection.scores > pairs.expand(theta)
    assert torch.equal(above, selection.keep)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.5, 0])
def test_a_budget_out_of_range_is_named(keep):
    with pytest.raises(ValueError, match="keep="):
        budget_counts(keep, Segments([4]))


def test_eq_18_band():
    ratio = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64)
    expected = torch.tensor([0.2, 0, 0, 0, 0.15], dtype=torch.float64)
    torch.testing.assert_close(band_loss(ratio, 0.3, 0.8), expected)


def test_eq_19_and_20_on_ragged_answers():
    questions = Segments([2, 1])
    logits = rows(3, 5)
    targets = torch.tensor([1, 0, 4])
    p = logits.float().softmax(-1).double()
    entropy = [-sum(x * math.log(x) for x in row) for row in p.tolist()]
    got = robust_loss(logits, questions).double()
    expected = torch.tensor([-(entropy[0] + entropy[1]) / 2, -entropy[2]], dtype=torch.float64)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    flip = [-math.log(1 - p[i, t].item() + 1e-6) for i, t in enumerate(targets)]
    expected = torch.tensor([(flip[0] + flip[1]) / 2, flip[2]], dtype=torch.float64)
    got = flip_loss(logits, targets, questions).double()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_flip_loss_is_finite_for_a_certain_answer():
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    loss = flip_loss(logits, torch.tensor([0]), Segments([1]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=0.1)
    assert torch.isfinite(logits.grad).all()


def test_pointing_against_a_loop():
    pairs = Segments([3, 2, 4])
    u = rows(9).requires_grad_()
    share = torch.tensor([0.5, 0, 1.5, 0, 0.01, 0, 0.3, 0, 0.0], dtype=torch.float64)
    gaps = []
    for part in (slice(0, 3), slice(5, 9)):  # the second has a hundredth of a token: no evidence
        target = (share[part] / share[part].sum()).tolist()
        p = u[part].softmax(0).tolist()
        gaps.append(sum(t * math.log(t / q) for t, q in zip(target, p, strict=True) if t > 0))
    loss = pointing_loss(u, share, pairs)
    assert loss.item() == pytest.approx(sum(gaps) / 2, rel=1e-5)
    loss.backward()
    assert (u.grad[3:5] == 0).all() and torch.isfinite(u.grad).all() and u.grad[2] != 0
    known = torch.log(torch.tensor([0.25, 0.75, 1.0]))
    assert pointing_loss(known, known.exp(), Segments([2, 1])).abs() < 1e-5
    assert pointing_loss(u, torch.zeros(9), pairs) == 0


def test_the_threshold_is_float32_where_its_weights_are_not() -> None:
    """A trainer may hold bf16 weights; theta is still compared with rho in float32."""
    torch.manual_seed(0)
    predictor = ThresholdPredictor(hidden=8)
    torch.nn.init.normal_(predictor.mlp[2].weight)
    features = torch.randn(5, 12)
    rounded = predictor.bfloat16()
    theta = rounded(features)
    assert theta.dtype == torch.float32
    torch.testing.assert_close(theta, rounded.float()(features), atol=1e-7, rtol=0)
