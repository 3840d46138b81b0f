"""The baselines against loops in float64 and against the stock model's own attention."""

import math

import numpy as np
import pytest
import torch

from photon.errors import InputError
from photon.pruning.baselines.fastv import AttentionPruner, last_row_attention
from photon.pruning.baselines.given import GivenPruner
from photon.pruning.baselines.oracle import oracle_mask
from photon.pruning.baselines.random import RandomPruner
from photon.pruning.baselines.uniform import UniformPruner, strided
from photon.pruning.named import acts_before, find_pruner, name_of, new_pruner, pruners
from tests.helpers import photon_model, random_batch

LAYER = 0.5


@pytest.fixture(scope="module")
def reading():
    """Model, batch and trunk of six questions about three volumes, with answers behind them."""
    model = photon_model(layer=LAYER).eval()
    batch, _, _ = random_batch()
    with torch.no_grad():
        return model, batch, model.trunk(batch, model.encode(batch), model.cut)


def test_uniform_takes_equal_steps():
    for total in (1, 2, 7, 16, 125, 1000):
        for count in {1, 2, 3, total // 3, total - 1, total} - {0}:
            if count > total:
                continue
            places = strided(count, total).tolist()
            assert places == [int((i + 0.5) * total / count) for i in range(count)]
            assert len(set(places)) == count and 0 <= min(places) and max(places) < total
            steps = {b - a for a, b in zip(places, places[1:], strict=False)}
            assert not steps or max(steps) - min(steps) <= 1
    assert strided(0, 5).tolist() == []


def test_random_draws_restart_with_the_seed_of_a_step(reading):
    """`StepSeed` seeds torch before each batch; a resumed run must then draw the same tokens."""
    _, _, trunk = reading
    context, pruner = trunk.context(False), RandomPruner(LAYER, keep=5)

    def draw(pruner, seed):
        torch.manual_seed(seed)
        return pruner.select(context).keep

    whole = [draw(pruner, seed) for seed in (1, 2)]
    assert torch.equal(whole[1], draw(RandomPruner(LAYER, keep=5), 2))
    assert not torch.equal(*whole)
    assert pruner.select(context).counts.tolist() == [5] * 6


def test_uniform_is_the_same_for_every_question_of_a_volume(reading):
    model, _, trunk = reading
    pruner = UniformPruner(LAYER)
    selection = pruner.select(trunk.context(False), keep=5)
    masks = selection.keep.split(selection.pairs.lengths)
    assert selection.counts.tolist() == [5] * 6
    for mask in masks:
        assert mask.nonzero().squeeze(1).tolist() == strided(5, len(mask)).tolist()


def loop_attention(last, question):
    """softmax over all seen keys, averaged over heads, one number at a time."""
    begin, end = last.seen.offsets[question], last.seen.offsets[question + 1]
    keys = last.keys[last.rows[begin:end]]
    n_heads, size = last.queries.shape[1:]
    groups = n_heads // keys.shape[1]
    mean = [0.0] * len(keys)
    for h in range(n_heads):
        logits = [
            sum(float(a * b) for a, b in zip(last.queries[question, h], key[h // groups]))
            / math.sqrt(size)
            for key in keys
        ]
        top = max(logits)
        total = sum(math.exp(x - top) for x in logits)
        mean = [m + math.exp(x - top) / total / n_heads for m, x in zip(mean, logits, strict=True)]
    return torch.tensor(mean, dtype=torch.float64)


def test_attention_equals_a_loop(reading):
    _, _, trunk = reading
    last = trunk.context(True).last()
    got = last_row_attention(last).split(last.seen.lengths)
    for question in (0, 3, 5):
        torch.testing.assert_close(got[question], loop_attention(last, question))
        assert float(got[question].sum()) == pytest.approx(1.0)


def test_attention_is_that_of_the_stock_layer_at_the_row_that_predicts_the_answer():
    """One question in the stock layers, eager attention: weights of the last row of its prompt."""
    model = photon_model(layer=LAYER).eval()
    batch, _, _ = random_batch(questions=((4,),), shapes=[(6, 8, 8)], n_answer=(2,))
    language = model.backbone.model.language_model
    language.config._attn_implementation = "eager"
    ids = torch.cat([batch.prefix_ids, batch.suffix_ids])
    with torch.no_grad():
        hidden = language.embed_tokens(ids).clone()
        hidden[: batch.prefixes.total][batch.visual] = model.encode(batch).tokens
        hidden, n = hidden[None], len(ids)
        positions = torch.cat([batch.prefix_positions, batch.suffix_positions], 1)
        rope = language.rotary_emb(hidden, positions[:, None])
        bias = torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)[None, None]
        for i in range(model.cut):
            layer = language.layers[i]
            weights = layer.self_attn(
                layer.input_layernorm(hidden), attention_mask=bias, position_embeddings=rope
            )[1]
            got = layer(hidden, attention_mask=bias, position_embeddings=rope)
            hidden = got[0] if isinstance(got, tuple) else got
        trunk = model.trunk(batch, model.encode(batch), model.cut)
    first_target = int((batch.targets != -100).nonzero()[0])
    row = batch.prefixes.total + first_target
    last = trunk.context(True).last()
    expected = weights[0, :, row, : row + 1].mean(0)
    torch.testing.assert_close(last_row_attention(last), expected, atol=1e-5, rtol=1e-4)
    keep = AttentionPruner(LAYER).select(trunk.context(True), keep=7).keep
    visual = expected[: batch.prefixes.total][batch.visual]
    assert set(keep.nonzero().squeeze(1).tolist()) == set(visual.topk(7).indices.tolist())


def test_attention_never_sees_the_answer():
    model = photon_model(layer=LAYER).eval()
    batch, _, _ = random_batch()
    other, _, _ = random_batch()
    supervised = (other.targets != -100).nonzero().squeeze(1) + 1
    other.suffix_ids[supervised] = (other.suffix_ids[supervised] + 17) % 60 + 4
    masks = []
    for one in (batch, other):
        with torch.no_grad():
            trunk = model.trunk(one, model.encode(one), model.cut)
        masks.append(AttentionPruner(LAYER).select(trunk.context(True), keep=6))
    assert torch.equal(masks[0].keep, masks[1].keep)
    assert torch.equal(masks[0].scores, masks[1].scores)


@pytest.mark.parametrize("name", ["uniform", "fastv"])
def test_baselines_train(name):
    """As `pruner=NAME` does: a hard pass with a loss, no gradient to what is not learned."""
    model = photon_model(pruner=pruners()[name](layer=LAYER, keep=0.5))
    batch, _, _ = random_batch()
    out = model(batch, "hard")
    out.answers.logits.square().mean().backward()
    assert out.selection.counts.tolist() == [round(n / 2) for n in out.selection.pairs.lengths]
    assert model.backbone.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def test_oracle_ranks_by_coverage_and_fills_by_a_stride():
    share = np.array([[0.0, 0.2, 0.0], [0.9, 0.0, 0.2]])
    assert np.flatnonzero(oracle_mask(share, 1)).tolist() == [3]
    assert np.flatnonzero(oracle_mask(share, 2)).tolist() == [1, 3]  # a tie goes to the lower index
    assert np.flatnonzero(oracle_mask(share, 3)).tolist() == [1, 3, 5]
    # The others are 0, 2, 4; one of them at an equal step is the middle one.
    assert np.flatnonzero(oracle_mask(share, 4)).tolist() == [1, 2, 3, 5]
    assert oracle_mask(share, 6).all() and not oracle_mask(share, 0).any()
    with pytest.raises(ValueError, match=r"count=7 must be within 0\.\.6"):
        oracle_mask(share, 7)


def test_oracle_keeps_everything_covered_at_any_larger_budget():
    rng = np.random.default_rng(0)
    for _ in range(20):
        share = rng.random(40) * (rng.random(40) < 0.3)
        size = np.count_nonzero(share)
        for count in range(41):
            mask = oracle_mask(share, count)
            assert mask.sum() == count
            best = np.sort(share)[::-1][: min(count, size)].sum()
            assert share[mask].sum() == pytest.approx(best)


def test_oracle_without_evidence_is_the_uniform_stride():
    assert np.flatnonzero(oracle_mask(np.zeros(30), 4)).tolist() == strided(4, 30).tolist()


def test_pruners_are_found_by_the_names_of_their_files():
    assert {"photon", "random", "uniform", "fastv"} <= set(pruners())
    for name, kind in pruners().items():
        assert find_pruner(name) is kind and name_of(kind(keep=0.5)) == name
    assert acts_before("divprune") and not acts_before("fastv") and not acts_before(None)
    assert acts_before("vscan_both") and not acts_before("pyramiddrop")
    assert new_pruner("fastv", 0.5).layer == 0.5 and new_pruner("divprune", 0.5).layer is None
    with pytest.raises(InputError, match="pruner 'fastvv': there is none.*'fastv'"):
        find_pruner("fastvv")
    with pytest.raises(ValueError, match="GivenPruner"):
        name_of(GivenPruner())
