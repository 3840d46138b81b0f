"""Tokens that hold nothing: left out before the encoder and everywhere after it."""

import pytest
import torch
from torch import Tensor

from photon.batch.patches import patch_coordinates, window_order
from photon.errors import InputError
from photon.model.encoder import cos_sin, rotate
from photon.model.generate import generate
from photon.volume.preparation import Preparation
from tests.helpers import FAMILIES, builder, photon_model, random_batch

LEVEL = 0.25


def with_air(seed: int = 0, **options):
    """A random batch with air in two volumes of three, and the same batch computed whole."""
    batch, volumes, prompts = random_batch(seed, **options)
    for volume in (volumes[0][0], volumes[1][0]):
        volume[:, :, :4] *= LEVEL
        volume[:2, 4:] *= LEVEL
    whole = builder()
    return type(whole)(**{**vars(whole), "air": LEVEL})(volumes, prompts), whole(volumes, prompts)


def masked_encoder(model, patches: Tensor, grid, present: Tensor) -> Tensor:
    """One volume through the tower, window by window in loops, empty patches hidden as keys."""
    encoder, visual = model.encoder, model.backbone.model.visual
    hidden = encoder.embed_patches(model.normalize(patches).to(encoder.dtype))
    if hasattr(visual, "pos_embed"):
        plan = encoder._make_plan((grid,), patches.device)
        hidden = hidden + (visual.pos_embed(plan.corners) * plan.weights[..., None]).sum(1)
    slab = grid[1] * grid[2]
    slabs = torch.arange(grid[0] * slab).split(slab)
    windows = slabs
    if encoder.windowed:
        order, lengths = window_order(grid, encoder.merge, encoder.window)
        windows = order.split(lengths)
    seen = present.repeat_interleave(encoder.merge**2)
    size = visual.config.hidden_size // encoder.heads
    frequency = 1.0 / 10000.0 ** (torch.arange(0, size // 2, 2) / (size // 2))
    places = patch_coordinates(grid, encoder.merge)
    angles = (places[:, :, None].float() * frequency).flatten(1)
    rope = cos_sin(torch.cat([angles, angles], -1), encoder.dtype)
    for i, block in enumerate(visual.blocks):
        qkv = block.attn.qkv(block.norm1(hidden)).unflatten(-1, (3, encoder.heads, -1))
        q, k, v = qkv.unbind(1)
        q, k = rotate(q, rope), rotate(k, rope)
        out = torch.zeros_like(q)
        for segment in windows if i in encoder.windowed else slabs:
            score = torch.einsum("qnh,knh->nqk", q[segment], k[segment]) * size**-0.5
            score = score.masked_fill(~seen[segment], float("-inf")).softmax(-1).nan_to_num()
            out[segment] = torch.einsum("nqk,knh->qnh", score, v[segment])
        hidden = hidden + block.attn.proj(out.flatten(1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return visual.merger(hidden)[present]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_equal_those_with_empty_patches_masked(family) -> None:
    model = photon_model(family=family)
    batch, whole = with_air()
    assert [int(mask.sum()) for mask in batch.present] == batch.visual_lengths
    assert 0 < sum(batch.visual_lengths) < sum(whole.visual_lengths)
    ours = model.encode(batch).tokens.split(batch.visual_lengths)
    rows = whole.patches.split(whole.patch_counts)
    for v, (grid,) in enumerate(whole.grids):
        expected = masked_encoder(model, rows[v], grid, batch.present[v])
        torch.testing.assert_close(ours[v], expected, rtol=0, atol=1e-10)


def test_rows_keep_their_positions_and_what_follows_the_volume() -> None:
    batch, whole = with_air()
    runs = torch.ones_like(whole.visual)
    runs[whole.visual] = torch.cat(batch.present)
    assert torch.equal(batch.prefix_positions, whole.prefix_positions[:, runs])
    assert torch.equal(batch.prefix_ids, whole.prefix_ids[runs])
    assert torch.equal(batch.suffix_positions, whole.suffix_positions)


def test_a_volume_that_is_all_air_is_computed_whole() -> None:
    _, volumes, prompts = random_batch()
    volumes[0][0].zero_()
    whole = builder()
    batch = type(whole)(**{**vars(whole), "air": LEVEL})(volumes, prompts)
    assert bool(batch.present[0].all())


@pytest.mark.parametrize("stage", ["off", "hard"])
def test_answers_do_not_depend_on_the_batch_and_masks_lie_on_the_grid(stage) -> None:
    model = photon_model().eval()
    batch, _ = with_air(n_answer=None)
    together = generate(model, batch, end_id=7, max_new_tokens=4, stage=stage)
    assert together.visual_tokens == [len(batch.present[v]) for v in batch.volume_of]
    for mask, v in zip(together.keep_masks, batch.volume_of, strict=True):
        assert bool((batch.present[v] | ~mask).all()) and bool(mask.any())
    _, volumes, prompts = random_batch(n_answer=None)
    for volume in (volumes[0][0], volumes[1][0]):
        volume[:, :, :4] *= LEVEL
        volume[:2, 4:] *= LEVEL
    whole = builder()
    build = type(whole)(**{**vars(whole), "air": LEVEL})
    alone = [
        generate(model, build([group], [[prompt]]), end_id=7, max_new_tokens=4, stage=stage)
        for group, questions in zip(volumes, prompts, strict=True)
        for prompt in questions
    ]
    assert together.tokens == [one.tokens[0] for one in alone]
    assert together.kept_tokens == [one.kept_tokens[0] for one in alone]


def test_scores_lie_on_the_grid() -> None:
    model = photon_model().eval()
    batch, _ = with_air(n_answer=None)
    found = generate(model, batch, end_id=7, max_new_tokens=1)
    scores = found.on_grids(found.selection.scores)
    expected = found.selection.scores.split(found.selection.pairs.lengths)
    for grid, pairs, v in zip(scores, expected, batch.volume_of, strict=True):
        assert torch.equal(grid[batch.present[v]], pairs)
        assert not grid[~batch.present[v]].any()


@pytest.mark.parametrize(
    "preparation, hu, value",
    [
        (Preparation(), -900, 0.05),
        (Preparation(windows=((-1000, 1000), (-160, 240))), -900, 0.05),
        (Preparation(windows=((-1000, 0), (-500, 500))), -400, 0.6),
    ],
)
def test_hounsfield_units_become_the_value_of_a_voxel(preparation, hu, value) -> None:
    assert preparation.value(hu) == pytest.approx(value)


@pytest.mark.parametrize(
    "preparation, match",
    [
        (Preparation(intensity="minmax"), "intensity=minmax"),
        (Preparation(windows=((-160, 240),)), "begins below"),
    ],
)
def test_air_that_cannot_be_told_is_refused(preparation, match) -> None:
    with pytest.raises(InputError, match=match):
        preparation.value(-900)
