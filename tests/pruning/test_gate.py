"""Direction `gate`: the derivative by a token's weight as a key takes the place of eta."""

import pytest
import torch

from photon.packing import Segments
from photon.pruning.surrogate import GateTokens, SurrogateConfig, surrogate_gradient
from tests.helpers import photon_model, random_batch


def logits_and_gradients(direction, **options):
    model = photon_model(layer=0.5, direction=direction, **options)
    batch, _, _ = random_batch()
    out = model(batch, "hard")
    out.selection.prob.retain_grad()
    torch.nn.functional.cross_entropy(out.answers.logits, out.answers.targets).backward()
    return model, out


def test_the_pass_is_that_of_the_other_directions():
    """Forward equal; the gradient of the model's own weights as well, only that of q differs."""
    taylor, one = logits_and_gradients("taylor", score_gradient=False)
    gate, other = logits_and_gradients("gate", score_gradient=False)
    torch.testing.assert_close(one.answers.logits, other.answers.logits, atol=1e-6, rtol=1e-6)
    for (name, a), (_, b) in zip(
        taylor.backbone.named_parameters(), gate.backbone.named_parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4, msg=name)
    assert not torch.allclose(one.selection.prob.grad, other.selection.prob.grad)
    moved = [p.grad.abs().sum() for p in gate.pruner.predictor.parameters()]
    assert all(float(m) > 0 for m in moved)
    assert float(gate.pruner.monitor["eta_std"]) > 0


def test_tokens_that_the_answer_needs_are_promoted():
    """eta < 0 says that the loss rises when the token's weight falls: dL/dq must be negative."""
    pairs, keep = Segments([4]), torch.tensor([True, True, True, False])
    eta = torch.tensor([-1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    q = torch.full((4,), 0.6, dtype=torch.float64)
    grad = surrogate_gradient(eta, eta.abs(), q, keep, pairs, SurrogateConfig("gate"))
    assert grad[0] < 0 < grad[2]


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_surrogate_follows_a_questions_weight_and_not_its_loss(scale):
    pairs, keep = Segments([3, 3]), torch.tensor([1, 0, 1, 1, 1, 0], dtype=torch.bool)
    own = torch.tensor([0.3, 0.0, -0.2, 0.5, 0.1, 0.0], dtype=torch.float64)
    q = torch.full((6,), 0.6, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([scale, 0.0], dtype=torch.float64)
    gate = GateTokens.apply(q, keep, weight, pairs, SurrogateConfig("gate"), {})
    assert torch.equal(gate, torch.zeros_like(gate))
    gate.backward(own * pairs.expand(weight))
    expected = surrogate_gradient(own, own.abs(), q.detach(), keep, pairs, SurrogateConfig("gate"))
    torch.testing.assert_close(q.grad[:3], scale * expected[:3])
    assert torch.equal(q.grad[3:], torch.zeros(3, dtype=torch.float64))
