"""Pruning off: our packed engine equals the stock class, whatever is packed beside it."""

import pytest
import torch

from photon.batch.batch import IGNORE
from tests.helpers import backbone, builder, photon_model, random_batch


def stock_logits(model, batch, question):
    """Logits of the stock class for one question of a batch, alone, with our positions."""
    v = batch.volume_of[question]
    grid = torch.tensor(batch.grids[v])
    counts = [sum(d * h * w for d, h, w in group) for group in batch.grids]
    patches = batch.patches.split(counts)[v]
    prefix, suffix = list(batch.prefixes)[v], list(batch.suffixes)[question]
    ids = torch.cat([batch.prefix_ids[prefix], batch.suffix_ids[suffix]])[None]
    positions = torch.cat([batch.prefix_positions[:, prefix], batch.suffix_positions[:, suffix]], 1)
    text = torch.arange(ids.shape[1]).expand(1, 1, -1)
    out = model(
        input_ids=ids,
        pixel_values_videos=patches,
        video_grid_thw=grid,
        position_ids=torch.cat([text, positions[:, None]]),
        use_cache=False,
    )
    return out.logits[0, -len(batch.suffix_ids[suffix]) :]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 3e-5)])
def test_unpruned_logits_equal_stock(double_islands, dtype, tolerance):
    model = photon_model(dtype=dtype, pruner=None).eval()
    batch, _, _ = random_batch(dtype=dtype)
    ours = model(batch, stage="off").answers
    for question, rows in enumerate(ours.questions):
        suffix = list(batch.suffixes)[question]
        supervised = batch.targets[suffix] != IGNORE
        expected = stock_logits(model.backbone, batch, question)[supervised]
        assert expected.std() > 0.2
        torch.testing.assert_close(ours.logits[rows], expected, atol=tolerance, rtol=tolerance)


def test_two_volumes_in_one_question_equal_stock(double_islands):
    """Also of a batch whose other questions have one volume."""
    shapes = [(4, 12, 8), [(6, 8, 12), (4, 12, 8)]]
    model = photon_model(pruner=None).eval()
    batch, _, _ = random_batch(questions=((5,), (4, 3)), shapes=shapes, depth_stride=3)
    assert batch.visual_lengths == [2 * 3 * 2, 3 * 2 * 3 + 2 * 3 * 2]
    ours = model(batch, stage="off").answers
    for question, rows in enumerate(ours.questions):
        supervised = batch.targets[list(batch.suffixes)[question]] != IGNORE
        expected = stock_logits(model.backbone, batch, question)[supervised]
        torch.testing.assert_close(ours.logits[rows], expected, atol=1e-10, rtol=1e-10)


def test_a_second_volume_starts_after_the_first():
    batch, _, _ = random_batch(questions=((4,),), shapes=[[(4, 8, 8), (6, 8, 8)]], depth_stride=5)
    at = batch.prefix_positions[:, batch.visual].split([2 * 4, 3 * 4], 1)
    text = batch.prefix_positions[:, ~batch.visual]
    assert at[0].min() == 3 and at[0].max() == 3 + 5
    assert text[0].tolist() == [0, 1, 2, 9, 10, 22] and at[1].min() == 11 and at[1].max() == 21
    assert batch.prefix_ids[~batch.visual].tolist() == [10, 11, 12, 4, 12, 4]


def test_vision_tower_equals_stock_with_small_edge_windows(double_islands):
    """A grid that windows do not divide, and several volumes in one call."""
    model = photon_model(pruner=None).eval()
    visual = model.backbone.model.visual
    grids = [(2, 6, 10), (3, 4, 4)]
    rows = torch.randn(2 * 60 + 3 * 16, 8, dtype=torch.float64)
    expected = visual(rows, torch.tensor(grids)).pooler_output
    torch.testing.assert_close(model.encoder(rows, grids).tokens, expected, atol=1e-10, rtol=1e-10)


def test_three_channel_stock_patch(double_islands):
    """The stock (2, 14, 14) RGB patch embedding is a configuration, not another class."""
    model = backbone(in_channels=3)
    from photon.model.photon import PhotonModel

    photon = PhotonModel(model).eval()
    batch, _, _ = random_batch(questions=((4,),), channels=3)
    expected = stock_logits(model, batch, 0)[batch.targets != IGNORE]
    torch.testing.assert_close(
        photon(batch, stage="off").answers.logits, expected, atol=1e-10, rtol=1e-10
    )


def test_prefix_rows_do_not_depend_on_questions():
    model = photon_model().eval()
    first, _, _ = random_batch(questions=((4, 3),))
    second, _, _ = random_batch(questions=((4, 3),))
    second.suffix_ids.copy_(second.suffix_ids.flip(0))
    a = model.trunk(first, model.encode(first), model.cut).hidden[: first.prefixes.total]
    b = model.trunk(second, model.encode(second), model.cut).hidden[: first.prefixes.total]
    assert torch.equal(a, b)


def test_text_resumes_after_the_last_position():
    batch, _, _ = random_batch(questions=((4,),), depth_stride=28)
    last = int(batch.prefix_positions[:, batch.visual].max())
    assert last == 3 + 2 * 28
    after = batch.prefix_positions[:, -1]
    assert after.tolist() == [last + 1] * 3
    assert batch.suffix_positions[0, 0] == last + 2


def test_patch_rows_follow_the_stock_processor():
    """Layout of transformers' Qwen2-VL video processor, written out as loops."""
    volume = torch.arange(4 * 8 * 4).reshape(1, 4, 8, 4).double()
    from photon.batch.patches import patchify

    rows = patchify(volume, (2, 2, 2))
    expected = []
    for t in range(2):
        for gh in range(2):
            for gw in range(1):
                for mh in range(2):
                    for mw in range(2):
                        h, w = 2 * (2 * gh + mh), 2 * (2 * gw + mw)
                        expected.append(
                            volume[0, 2 * t : 2 * t + 2, h : h + 2, w : w + 2].flatten()
                        )
    assert torch.equal(rows, torch.stack(expected))


def test_a_volume_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match="preparation.size"):
        builder().grid(torch.zeros(5, 8, 8))
