"""The three tails: what they share, what they promise, and the gate with which they learn."""

from dataclasses import replace

import pytest
import torch

from photon.model.attention import AttentionPlan
from photon.pruning.baselines.random import RandomPruner
from photon.pruning.baselines.uniform import UniformPruner
from photon.pruning.its import PhotonPruner
from photon.pruning.surrogate import log_weight
from tests.helpers import FAMILIES, builder, photon_model, random_batch
from tests.model.test_engine import TIGHT, alone, summed

SHARED = ["union", "all"]


def gated(tail, family="qwen2_5", **options):
    return photon_model(layer=0.25, family=family, tail=tail, direction="gate", **options)


def same_question_twice():
    """Two volumes with two equal questions each: all questions of a volume keep the same."""
    _, volumes, prompts = random_batch(questions=((4,), (6,)))
    return builder()(volumes, [[*group, *group] for group in prompts])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("twice", [False, True])
def test_union_is_question_where_nothing_else_is_kept(family, twice):
    """Logits, gradients of all weights, and the surrogate, which trains the pruner's."""
    batch = same_question_twice() if twice else random_batch(questions=((4,), (5,), (3,)))[0]
    runs = []
    for tail in ("question", "union"):
        model = gated(tail, family)
        out = model(batch, "hard", flip=torch.tensor([True] + [False] * (len(batch.suffixes) - 1)))
        out.selection.prob.retain_grad()
        (out.answers.logits.square().mean() + out.flipped.logits.square().mean()).backward()
        gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        runs.append((out.answers.logits, out.flipped.logits, out.selection.prob.grad, gradients))
    (*one, mine), (*other, theirs) = runs
    for a, b in zip(one, other, strict=True):
        assert bool(a.any())
        torch.testing.assert_close(a, b, **TIGHT)
    assert mine.keys() == theirs.keys() and any("predictor" in name for name in mine)
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], **TIGHT, msg=name)
    kept = out.selection.hard_ratio
    assert 0 < float(kept.min()) and float(kept.max()) < 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["soft", "hard"])
def test_with_all_a_question_does_not_feel_the_others(double_islands, family, stage):
    """Loss and gradients, the surrogate's too, are the sum over separate samples."""
    model = gated("all", family)
    batch, volumes, prompts = random_batch()
    loss, together = summed(model, [batch], stage)
    expected, apart = summed(model, alone(volumes, prompts), stage)
    assert loss == pytest.approx(expected, abs=1e-10)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], **TIGHT, msg=name)
    assert sum(float(g.abs().max()) > 1e-8 for n, g in together.items() if "pruner" in n) == 4


def test_with_union_it_does():
    """What `union` cannot promise: a question alone and beside others."""
    model = gated("union").eval()
    batch, volumes, prompts = random_batch()
    together = model(batch, "hard").answers.logits
    apart = torch.cat([model(one, "hard").answers.logits for one in alone(volumes, prompts)])
    assert not torch.allclose(together, apart, atol=1e-3)


@pytest.mark.parametrize("tail", ["question", *SHARED])
def test_rows_that_run_above(tail):
    """Counted in the layers above l; `union` runs what some question keeps, and no more."""
    model = photon_model(pruner=RandomPruner(0.25, keep=3, tail=tail)).eval()
    batch, _, _ = random_batch()
    rows = []
    norm = model.backbone.model.language_model.layers[-1].input_layernorm
    norm.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    keep = model(batch, "hard").selection.keep.split(batch.pairs.lengths)
    text = [4] * 3  # rows of every prefix that are no visual tokens
    expected = {
        "question": sum(text[v] + 3 for v in batch.volume_of),
        "union": sum(text) + int(sum((keep[a] | keep[b] | keep[c]).sum() for a, b, c in GROUPS)),
        "all": batch.prefixes.total,
    }
    assert rows == [expected[tail] + batch.suffixes.total]
    assert expected["question"] != expected["union"] < expected["all"]


GROUPS = [(0, 1, 1), (2, 2, 2), (3, 4, 5)]


class TestSoftStage:
    def run(self, tail, q):
        model = gated(tail).eval()
        batch, _, _ = random_batch()
        trunk = model.trunk(batch, model.encode(batch), model.cut)
        selection = replace(model.select(trunk), prob=q(batch.pairs.total))
        weight = torch.ones(len(batch.suffixes))
        hidden = model.decoder.tail(trunk, selection, model.cut, model.pruner, True, weight)
        return model, batch, trunk, hidden

    @pytest.mark.parametrize("tail", SHARED)
    def test_at_one_it_is_the_unpruned_model(self, tail):
        model, batch, _, hidden = self.run(tail, lambda n: torch.ones(n).double())
        assert torch.equal(model.answers(batch, hidden).logits, model(batch, "off").answers.logits)

    @pytest.mark.parametrize("tail", SHARED)
    @pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_at_one_and_zero_it_is_keeping_and_dropping(self, tail, dtype, tolerance):
        """And its gradient is finite there."""
        q = (torch.arange(144) % 3 > 0).to(dtype).requires_grad_()
        model, batch, trunk, hidden = self.run(tail, lambda n: q[:n])
        keep = q.detach()[: batch.pairs.total] > 0
        hard = model.decoder.above(trunk, batch.lay_out(keep, "all"), model.cut)
        torch.testing.assert_close(hidden, hard, atol=tolerance, rtol=tolerance)
        hidden.square().sum().backward()
        assert bool(q.grad.isfinite().all())
        assert float(q.grad[: len(keep)][~keep].abs().min()) > 0

    @pytest.mark.parametrize("value", [0.3, 1e-4, 0.0])
    def test_its_gradient_is_that_of_differences(self, double_islands, value):
        start = torch.full((200,), 0.5).double()
        start[7] = value
        q = start.clone().requires_grad_()
        self.run("all", lambda n: q[:n])[3].square().sum().backward()
        step = 1e-6
        values = []  # of the loss
        for sign in (0, 1) if value == 0 else (-1, 1):
            moved = start.clone()
            moved[7] += sign * step
            values.append(self.run("all", lambda n, q=moved: q[:n])[3].square().sum().item())
        difference = (values[1] - values[0]) / (step if value == 0 else 2 * step)
        assert float(q.grad[7]) == pytest.approx(difference, rel=1e-4)

    def test_log_weight_has_no_infinity(self):
        q = torch.tensor([0.0, 1e-38, 0.5, 1.0], requires_grad=True)
        gate = log_weight(q)
        gate.sum().backward()
        assert bool(gate.isfinite().all()) and bool(q.grad.isfinite().all()) and gate[-1] == 0


@pytest.mark.parametrize("tail", ["question", *SHARED])
def test_the_gradient_of_the_gate_is_that_of_differences(double_islands, tail):
    """And a pair's gate moves the answers of its own question only."""
    model = photon_model(pruner=RandomPruner(0.25, keep=0.5, tail=tail)).eval()
    batch, _, _ = random_batch()
    trunk = model.trunk(batch, model.encode(batch), model.cut)
    keep = model.select(trunk).keep
    layout = batch.lay_out(keep, tail)

    def losses(gate):
        logits = model.answers(batch, model.decoder.above(trunk, layout, model.cut, gate=gate))
        return batch.answers.sum(logits.logits.logsumexp(-1))

    gate = torch.zeros(len(keep), dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(losses(gate).sum(), gate)[0]
    assert not bool(gradient[~keep].any())
    for pair in keep.nonzero()[::9, 0].tolist():
        step = torch.zeros_like(gradient).index_fill(0, torch.tensor(pair), 1e-5)
        change = (losses(step) - losses(-step)).detach() / 2e-5
        own = int(batch.pairs.ids[pair])
        assert float(change[own]) == pytest.approx(float(gradient[pair]), rel=1e-5, abs=1e-9)
        change[own] = 0
        assert not bool(change.any())


def test_the_gradient_of_a_gate_is_attention_times_what_it_would_change():
    """Eq. 12 with the gate: eta_j = sum over rows and heads of a_j <dL/do, v_j - o>."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, up = (
        torch.randn(n, h, 8, generator=generator, dtype=torch.float64)
        for n, h in ((5, 4), (9, 2), (9, 2), (5, 4))
    )
    reads = [torch.tensor([0, 2, 3, 4, 5]), torch.tensor([1, 2, 6, 7, 8])]
    plan = AttentionPlan([2, 3], reads)
    gate = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    out = plan.attend(q, k, v, 0.3, gate)
    (out * up).sum().backward()
    expected = torch.zeros(10, dtype=torch.float64)
    for g, (rows, queries) in enumerate(zip(reads, [(0, 1), (2, 3, 4)], strict=True)):
        for i, row in enumerate(queries):
            seen = len(rows) - len(queries) + i + 1
            for head in range(4):
                keys, values = k[rows[:seen], head // 2], v[rows[:seen], head // 2]
                a = (keys @ q[row, head] * 0.3).softmax(0)
                o = a @ values
                torch.testing.assert_close(out[row, head], o)
                expected[5 * g : 5 * g + seen] += a * ((values - o) @ up[row, head])
    torch.testing.assert_close(gate.grad, expected)


def test_baselines_take_a_tail():
    batch, _, _ = random_batch()
    logits = [
        photon_model(pruner=UniformPruner(0.25, keep=0.4, tail=tail))(batch, "hard").answers.logits
        for tail in ("question", "union", "all")
    ]
    torch.testing.assert_close(logits[0], logits[1], **TIGHT)  # all questions keep the same
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"tail": "both"}, "pruner.tail='both': legal values are question, union, all"),
        ({"tail": "union", "direction": "paper"}, "pruner.tail=union with pruner.direction=paper"),
    ],
)
def test_what_does_not_go_together_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        PhotonPruner(**options)
