"""Changes of the loss on dropping and shrinking tokens, against separate passes of the model."""

import json

import numpy as np
import pytest
import torch

from photon.losses import answer_loss
from photon.pruning.baselines.given import GivenPruner
from photon.questions.record import Record
from photon.study.finite_difference import TokenChange, summarise, token_changes
from tests.helpers import FAMILIES, photon_model, random_batch


@pytest.fixture(scope="module")
def case():
    return asked(photon_model(layer=0.5), ((4, 3), (5,)))


@pytest.fixture(scope="module", params=FAMILIES)
def crowded(request):
    """Four questions see more visual rows than there are; of Qwen3-VL a feature lies above l."""
    return asked(photon_model(layer=0.25, family=request.param), ((4, 3, 4, 3), (5,)))


def asked(model, questions):
    batch, _, _ = random_batch(questions=questions)
    batch.records.extend(Record(f"q{i}", "v", "?") for i in range(len(batch.suffixes)))
    return model.eval(), batch


def loss(model, batch, masks):
    """Answer loss of every question under masks, by an ordinary pass."""
    own, model.pruner = model.pruner, GivenPruner(model.pruner.layer, [m.numpy() for m in masks])
    with torch.no_grad():
        answers = model(batch, "hard").answers
    model.pruner = own
    return answer_loss(answers.logits, answers.targets, answers.questions)


@pytest.mark.parametrize("keep_all", [True, False])
def test_dropping_is_the_difference_of_two_passes(crowded, keep_all):
    model, batch = crowded
    with torch.no_grad():
        selection = model(batch, "hard").selection
    keep = torch.ones_like(selection.keep) if keep_all else selection.keep
    masks = list(keep.split(selection.pairs.lengths))
    base = loss(model, batch, masks)
    found = list(token_changes(model, batch, [None] * 5, keep_all, tokens=100, step=0.01))
    assert [len(f.eta) for f in found] == [int(mask.sum()) for mask in masks]
    for i, change in enumerate(found):
        for at in (0, len(change.eta) - 1):
            without = [mask.clone() for mask in masks]
            without[i][masks[i].nonzero().squeeze(1)[at]] = False
            expected = (loss(model, batch, without) - base)[i]
            assert change.dropped[at] == pytest.approx(float(expected), abs=2e-6)


def test_first_order_predicts_shrinking_and_taylor_follows_it(case):
    """A.1.4: the loss changes by -eta times the step; taylor raises q where that is a rise."""
    model, batch = case
    for change in token_changes(model, batch, [None] * 3, True, tokens=100, step=0.02):
        scale = np.abs(change.eta).max()  # the stock norms compute in float32
        np.testing.assert_allclose(change.shrunk, -change.eta, atol=0.05 * scale)
        assert np.corrcoef(change.surrogate["taylor"], change.shrunk)[0, 1] < -0.7
        assert np.corrcoef(change.surrogate["paper"], change.shrunk)[0, 1] > 0.7


def test_a_summary_of_known_changes():
    eta = np.array([-2.0, -1.0, 1.0, 2.0])  # two useful tokens, two harmful ones
    surrogate = {"taylor": eta, "paper": -eta, "magnitude": -np.abs(eta), "gate": eta}
    told = TokenChange("q", eta, eta, -eta, -eta / 2, surrogate, np.array([1.0, 0.5, 0.2, 0.0]))
    unknown = TokenChange("r", eta, -eta, eta, -eta, surrogate, np.full(4, np.nan))
    out = summarise([told])
    assert out["sign"] == 1.0 and out["useful"] == 0.5
    assert out["rank_taylor"] == 1.0 and out["rank_paper"] == -1.0 and out["rank_evidence"] == 1.0
    assert out["loss_of_taylor"] == 2.0 and out["loss_of_paper"] == -2.0
    both = summarise([told, unknown])
    assert both["rank_gate_dropped"] == 1.0 and both["sign_gate"] == 1.0
    assert both["rank_eta_dropped"] == 0.0 and both["rank_eta_shrunk"] == 1.0
    assert both["rank_evidence"] == 1.0 and both["tokens"] == 8
    json.dumps(both, allow_nan=False)


def test_the_gate_predicts_removal_where_eta_is_blind():
    """Layers see a row through a norm that ignores its length, so with one layer left <x, g> is
    zero, whatever the token is worth; the derivative by its weight as a key is not."""
    model = photon_model(layer=0.75).eval()
    batch, _, _ = random_batch(questions=((4, 3), (5,)))
    batch.records.extend(Record(f"q{i}", "v", "?") for i in range(3))
    changes = list(token_changes(model, batch, [None] * 3, True, tokens=100))
    eta, gate, dropped = (
        np.concatenate([getattr(c, key) for c in changes]) for key in ("eta", "gate", "dropped")
    )
    assert np.abs(eta).max() < 1e-2 * np.abs(dropped).max()
    assert np.corrcoef(-gate, dropped)[0, 1] > 0.9
    assert np.abs(gate + dropped).mean() < 0.3 * np.abs(dropped).mean()
    liking = [np.corrcoef(c.surrogate["gate"], c.dropped)[0, 1] for c in changes]
    assert np.mean(liking) < -0.7


def test_a_gate_of_minus_infinity_is_removal(case):
    model, batch = case
    with torch.no_grad():
        trunk = model.trunk(batch, model.encode(batch), model.cut)
        selection = model.select(trunk, keep=4)
        gate = torch.where(selection.keep, 0.0, -1e9).double()
        pruned = model.decoder.above(trunk, batch.lay_out(selection.keep, "all"), model.cut)
        gated = model.decoder.above(trunk, batch.layout, model.cut, gate=gate)
    torch.testing.assert_close(gated, pruned, atol=1e-10, rtol=1e-10)
