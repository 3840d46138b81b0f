"""The packed engine: sharing, packing, dropping and caching change nothing but the cost."""

import pytest
import torch

from photon.model.generate import generate
from tests.helpers import FAMILIES, builder, photon_model, random_batch

TIGHT = {"atol": 1e-10, "rtol": 1e-10}


def alone(volumes, prompts):
    """The same questions as batches of one volume and one question."""
    for volume, group in zip(volumes, prompts, strict=True):
        for prompt in group:
            yield builder()([volume], [[prompt]])


def summed(model, batches, stage, weight=None):
    """Answer loss summed over questions, and gradients, over one or many batches."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        n = len(batch.suffixes)
        out = model(batch, stage, weight=torch.ones(n, dtype=torch.float64))
        answers = out.answers
        loss = torch.nn.functional.cross_entropy(answers.logits, answers.targets, reduction="none")
        loss = answers.questions.mean(loss).sum()
        loss.backward()
        total += loss.item()
    gradients = {
        k: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for k, p in model.named_parameters()
    }
    return total, gradients


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["off", "soft", "hard"])
def test_gradients_of_shared_prefixes_are_the_sum_over_separate_samples(
    double_islands, stage, family
):
    """With pruning this includes the surrogate: it is defined question by question."""
    model = photon_model(layer=0.25, family=family)
    batch, volumes, prompts = random_batch()
    loss, together = summed(model, [batch], stage)
    expected, apart = summed(model, alone(volumes, prompts), stage)
    assert loss == pytest.approx(expected, abs=1e-10)
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], **TIGHT, msg=name)
    moved = sum(float(g.abs().max()) > 1e-8 for n, g in together.items() if "pruner" in n)
    assert moved == (0 if stage == "off" else 4)


def test_packed_equals_one_at_a_time_with_different_kept_counts():
    model = photon_model(layer=0.5).eval()
    batch, volumes, prompts = random_batch()
    out = model(batch, "hard")
    counts = out.selection.counts.tolist()
    assert len(set(counts)) > 2 and out.selection.hard_ratio.max() < 1
    singles = [model(one, "hard") for one in alone(volumes, prompts)]
    assert counts == [int(s.selection.counts) for s in singles]
    torch.testing.assert_close(
        out.answers.logits, torch.cat([s.answers.logits for s in singles]), **TIGHT
    )


def test_answers_never_influence_selection():
    model = photon_model(layer=0.5).eval()
    batch, _, _ = random_batch()
    other, _, _ = random_batch()
    supervised = (other.targets != -100).nonzero().squeeze(1) + 1
    other.suffix_ids[supervised] = (other.suffix_ids[supervised] + 17) % 60 + 4
    a, b = model(batch, "hard"), model(other, "hard")
    assert not torch.allclose(a.answers.logits, b.answers.logits)
    for name in ("keep", "scores", "theta"):
        assert torch.equal(getattr(a.selection, name), getattr(b.selection, name))


def test_flip_answers_under_the_inverted_mask_of_the_marked_questions():
    model = photon_model(layer=0.5).eval()
    batch, _, _ = random_batch()
    flip = torch.tensor([True, False, True, False, False, True])
    out = model(batch, "hard", flip=flip)
    keep = out.selection.keep

    class Inverted(type(model.pruner)):
        def select(self, *args, **kwargs):
            from photon.pruning.base import Selection

            return Selection(~keep, out.selection.pairs)

    model.pruner.__class__ = Inverted
    inverted = model(batch, "hard").answers
    use = inverted.questions.expand(flip)
    torch.testing.assert_close(out.flipped.logits, inverted.logits[use], **TIGHT)
    lengths = [n if f else 0 for n, f in zip(inverted.questions.lengths, flip, strict=True)]
    assert out.flipped.questions.lengths == lengths


def test_soft_stage_scales_visual_rows_by_q():
    """With q = 1 everywhere it is the unpruned model, although nothing is shared any more."""
    model = photon_model(layer=0.5).eval()
    batch, _, _ = random_batch()
    off = model(batch, "off").answers.logits
    soft = model(batch, "soft").answers.logits
    assert not torch.allclose(soft, off, atol=1e-3)
    select = model.pruner.select

    def certain(*args):
        selection = select(*args)
        object.__setattr__(selection, "prob", torch.ones_like(selection.prob))
        return selection

    model.pruner.select = certain
    torch.testing.assert_close(model(batch, "soft").answers.logits, off, **TIGHT)


@pytest.mark.parametrize("stage", ["soft", "hard"])
def test_a_question_of_weight_zero_gives_the_pruner_no_gradient(stage):
    """As the questions of a perturbed volume, which have the robust loss only."""
    model = photon_model(layer=0.5, score_gradient=False)
    batch, _, _ = random_batch()
    out = model(batch, stage, weight=torch.zeros(6, dtype=torch.float64))
    out.answers.logits.square().sum().backward()
    for parameter in model.pruner.parameters():
        assert parameter.grad is None or not bool(parameter.grad.any())


@pytest.mark.parametrize("stage", ["off", "soft", "hard"])
def test_two_volumes_beside_one_change_nothing(stage):
    shapes = [(4, 12, 8), [(6, 8, 12), (4, 12, 8)], (8, 8, 8)]
    model = photon_model(layer=0.5).eval()
    batch, volumes, prompts = random_batch(questions=((5,), (4, 3), (3,)), shapes=shapes)
    together = model(batch, stage)
    singles = [model(one, stage) for one in alone(volumes, prompts)]
    expected = torch.cat([one.answers.logits for one in singles])
    torch.testing.assert_close(together.answers.logits, expected, **TIGHT)
    if stage == "hard":
        kept = torch.cat([one.selection.keep for one in singles])
        assert torch.equal(together.selection.keep, kept) and 0 < kept.sum() < len(kept)
        assert together.selection.pairs.lengths == [12, 30, 30, 16]


def test_a_question_without_a_volume():
    model = photon_model(layer=0.5).eval()
    generator = torch.Generator().manual_seed(0)
    from tests.helpers import prompt

    batch = builder()([()], [[prompt(generator, n_answer=0)]])
    got = generate(model, batch, 7, stage="off", max_new_tokens=2)
    assert got.visual_tokens == [0] and len(got.tokens[0]) <= 2
