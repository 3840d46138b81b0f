"""Pruners between encoder and language model, in the engine."""

import pytest
import torch
import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl as stock

from photon.batch.patches import window_order
from photon.model.generate import generate
from photon.model.taps import attention_received, noted_blocks
from photon.packing import Segments
from photon.pruning.named import find_pruner, pruners
from photon.pruning.pre_llm import EncodedPruner
from tests.helpers import FAMILIES, builder, photon_model, random_batch, talkative

METHODS = sorted(n for n, kind in pruners().items() if issubclass(kind, EncodedPruner))
INSIDE = ["dart", "fastv"]  # those after a layer, for which the same holds
TIGHT = {"atol": 1e-9, "rtol": 1e-9}


def made(name, **options):
    return find_pruner(name)(**options)


def alone(volumes, prompts):
    """A batch for each question, with its volume."""
    return [
        builder()([volume], [[prompt]])
        for volume, group in zip(volumes, prompts, strict=True)
        for prompt in group
    ]


def test_there_are_methods():
    assert {
        "cdpruner",
        "divprune",
        "hiprune",
        "interslice",
        "pooling",
        "prumerge",
        "visionzip",
    } <= {*METHODS}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS + INSIDE)
def test_a_batch_is_answered_as_one_question_at_a_time(name, family):
    """Mixed volumes and questions: what is kept, logits, and the count."""
    model = photon_model(pruner=made(name, keep=0.4), family=family).eval()
    batch, volumes, prompts = random_batch()
    together = model(batch)
    assert together.selection.counts.tolist() == [
        round(0.4 * n) for n in together.selection.pairs.lengths
    ]
    one = [model(single) for single in alone(volumes, prompts)]
    assert torch.equal(together.selection.keep, torch.cat([o.selection.keep for o in one]))
    logits = torch.cat([o.answers.logits for o in one])
    torch.testing.assert_close(together.answers.logits, logits, **TIGHT)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS + INSIDE)
def test_keeping_all_is_the_unpruned_model(name, family):
    model = photon_model(pruner=made(name, keep=1.0), family=family).eval()
    batch, _, _ = random_batch()
    kept = model(batch, "hard")
    assert bool(kept.selection.keep.all())
    torch.testing.assert_close(kept.answers.logits, model(batch, "off").answers.logits, **TIGHT)


@pytest.mark.parametrize("name", [*METHODS, "dart"])
def test_a_question_without_a_volume_stands_beside_others(name):
    model = photon_model(pruner=made(name, keep=0.4)).eval()
    _, volumes, prompts = random_batch(questions=((4,), (5,)))
    mixed = model(builder()([volumes[0], ()], prompts))
    assert mixed.selection.pairs.lengths[1] == 0 and mixed.selection.counts[1] == 0
    first = model(builder()(volumes[:1], prompts[:1])).answers.logits
    torch.testing.assert_close(mixed.answers.logits[: len(first)], first, **TIGHT)


@pytest.mark.parametrize(
    "name, options",
    [("prumerge", {}), ("interslice", {"threshold": 0.35}), ("medpruner", {"nucleus": 0.6})],
)
def test_a_method_may_choose_its_own_number(name, options):
    """Without a budget; the number of each volume does not depend on those beside it."""
    model = photon_model(pruner=made(name, keep=None, **options)).eval()
    batch, volumes, prompts = random_batch()
    counts = model(batch).selection.counts
    assert torch.equal(
        counts, torch.cat([model(o).selection.counts for o in alone(volumes, prompts)])
    )
    assert (counts < batch.pairs.counts).any()


@pytest.mark.parametrize("name", ["visionzip", "cdpruner", "pooling"])
def test_answers_are_those_of_the_kept_tokens(name):
    """Generation says what the teacher-forced pass would, at the call's budget."""
    model = talkative(photon_model(pruner=made(name, keep=0.9)))
    batch, volumes, prompts = random_batch(n_answer=None)
    out = generate(model, batch, end_id=7, max_new_tokens=4, keep=0.25)
    assert out.kept_tokens == [round(0.25 * n) for n in out.visual_tokens]
    for tokens, single in zip(out.tokens, alone(volumes, prompts), strict=True):
        assert generate(model, single, end_id=7, max_new_tokens=4, keep=0.25).tokens == [tokens]
    unpruned = generate(model, batch, end_id=7, max_new_tokens=4, stage="off").tokens
    assert out.tokens != unpruned


@pytest.mark.parametrize("name", METHODS + INSIDE)
def test_they_train(name):
    model = photon_model(pruner=made(name, keep=0.5))
    batch, _, _ = random_batch()
    model(batch, "hard").answers.logits.square().mean().backward()
    assert model.backbone.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def test_questions_of_a_volume_share_what_it_keeps():
    model = photon_model(pruner=made("visionzip", keep=0.5)).eval()
    selection = model(random_batch()[0]).selection
    masks = selection.keep.split(selection.pairs.lengths)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[3], masks[5])
    with pytest.raises(ValueError, match="as many tokens for every question"):
        model.select(trunk_of(model), keep=torch.tensor([5, 6, 5, 5, 5, 5]))
    with pytest.raises(ValueError, match="legal values are question, union"):
        made("visionzip", tail="all")


def trunk_of(model):
    batch = random_batch()[0]
    return model.trunk(batch, model.encode(batch, (0.25, 0.5, 1.0)), 0)


def test_what_is_noted_is_the_attention_of_the_stock_tower():
    """Column sums and keys of a full-attention block, against the stock block's own weights."""
    model = photon_model(pruner=made("hiprune")).eval()
    batch, _, _ = random_batch(questions=((4,),), shapes=[(6, 8, 12)])
    found = model.encode(batch, (0.5, 1.0))
    tower = model.backbone.model.visual
    tower.config._attn_implementation = "eager"
    block, maps, eager = tower.blocks[1], [], stock.eager_attention_forward

    def watched(module, *args, **kwargs):
        out = eager(module, *args, **kwargs)
        maps.append((module, out[1]))
        return out

    grid = torch.tensor([batch.grids[0][0]])
    patches = model.normalize(batch.patches)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(stock, "eager_attention_forward", watched)
        tower(patches, grid_thw=grid)
    full = [weights for module, weights in maps if module is block.attn]
    sums = torch.cat([w[0].mean(0).sum(0) for w in full])
    order = window_order(batch.grids[0][0], 2, model.encoder.window)[0][::4] // 4
    expected = sums.reshape(-1, 4).mean(1)[order.argsort()]
    torch.testing.assert_close(found.received[0.5], expected, atol=1e-8, rtol=1e-6)
    assert torch.equal(found.received[0.5], found.received[1.0])  # the only full block


def test_attention_received_sums_to_the_patches_of_each_slab():
    q, k = (torch.randn(14, 2, 4, dtype=torch.float64) for _ in range(2))
    slabs = Segments([6, 3, 5])
    received = attention_received(q, k, slabs)
    for rows in slabs:
        total = 0
        for h in range(2):
            logits = q[rows, h] @ k[rows, h].T / 2
            total = total + logits.exp().div(logits.exp().sum(1, keepdim=True)).sum(0) / 2
        torch.testing.assert_close(received[rows], total)


def test_blocks_of_the_published_depth():
    windowed = set(range(32)) - {7, 15, 23, 31}
    assert noted_blocks((0.25, 0.5, 1.0), 32, windowed) == {0.25: 7, 0.5: 15, 1.0: 31}


def test_places_are_those_of_the_positions():
    """Slab, row and column order positions as the decoder sees them; air is left out of both."""
    batch, _, _ = random_batch()
    where = batch.prefix_positions[:, batch.visual]
    places = batch.places
    for rows in Segments(batch.visual_lengths):
        offset = where[:, rows][:, :1]
        assert torch.equal((where[:, rows] - offset).T, places[rows][:, 1:])
