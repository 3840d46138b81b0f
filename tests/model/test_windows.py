"""Intensity windows: one input channel each, from the builder to the patch embedding and export."""

import pytest
import torch

from photon.batch.dataset import Collate, Item
from photon.errors import InputError
from photon.questions.record import Record
from photon.volume.preparation import Preparation
from photon.weights.checkpoints import build_model, load_export, save_export
from tests.helpers import TEXT, VISION

WINDOWS = [[-1000, 1000], [-160, 240], [0, 600]]
PATCH = {"patch_size": 14, "temporal_patch_size": 14, "window_size": 56}


def build(windows=None, channels=1, **options):
    text = {k: v for k, v in TEXT.items() if not k.endswith("_id") and k != "vocab_size"}
    size = (28, 56, 56)
    preparation = Preparation(crop=size, size=size, windows=windows)
    return build_model(
        text | {"rope_parameters": dict(TEXT["rope_parameters"])},
        {**VISION, **PATCH, "in_channels": channels} | options.pop("vision", {}),
        preparation,
        **{"tokenizer": "tiny", **options},
    )


def batch(model, volume):
    item = Item((volume,), [Record("a", "v", "How large is the liver?")])
    return Collate(model.builder, model.tokenizer, False)([item])


def test_each_window_meets_its_own_part_of_the_kernel(tmp_path):
    model = build(WINDOWS, 3, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
    volume = torch.rand(3, 28, 56, 56)
    rows = model.encoder.embed_patches(model.normalize(batch(model, volume).patches))
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]])[..., None, None, None]
    kernel = model.backbone.model.visual.patch_embed.proj.weight
    expected = torch.nn.functional.conv3d((volume - mean) / std, kernel, stride=14)
    # (C, 2, 4, 4) to rows: depth, then groups of 2x2 patches in plane, then the patches of a group.
    expected = expected.unflatten(3, (2, 2)).unflatten(2, (2, 2)).permute(1, 2, 4, 3, 5, 0)
    torch.testing.assert_close(rows, expected.reshape(32, -1), atol=1e-5, rtol=1e-4)
    save_export(model, tmp_path)
    loaded = load_export(tmp_path)
    assert loaded.preparation == model.preparation and loaded.preparation.channels == 3
    again = loaded.encode(batch(loaded, volume)).tokens
    assert torch.equal(again, model.encode(batch(model, volume)).tokens)


def test_windows_alike_give_the_tokens_of_the_embedding_that_was_inflated(tmp_path):
    """A (2, 14, 14) embedding of 3 channels on slabs of 7 slices, and 14^3 ones made of it."""
    stock = build(None, 3, vision={"temporal_patch_size": 2}, slab=7)
    stock.backbone.save_pretrained(tmp_path)
    stock.tokenizer.save_pretrained(tmp_path)
    volume = torch.rand(28, 56, 56)
    expected = stock.encode(batch(stock, volume)).tokens
    for windows in (None, WINDOWS[:1], WINDOWS[:2], WINDOWS):
        n = len(windows or [0])
        model = build(windows, n, pretrained=str(tmp_path), tokenizer=None, patch_init="inflate")
        alike = volume if windows is None else volume.expand(n, -1, -1, -1)
        tokens = model.encode(batch(model, alike)).tokens
        torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-4)


def test_only_a_new_patch_embedding_may_see_other_windows_than_the_weights_did(tmp_path):
    save_export(build(WINDOWS[:2], 2), tmp_path)
    options = {"pretrained": str(tmp_path), "tokenizer": None, "patch_init": "inflate"}
    for windows, channels in ((None, 1), (WINDOWS, 3)):
        assert build(windows, channels, **options).preparation.channels == (windows and 3)
    with pytest.raises(InputError, match=r"windows=.*0, 600.*\(trained with .*-160, 240"):
        build([WINDOWS[0], WINDOWS[2]], 2, **options)


def test_a_single_window_is_repeated_over_the_channels_of_a_stock_embedding():
    model = build(WINDOWS[:1], 3)
    volume = torch.rand(28, 56, 56)
    assert torch.equal(batch(model, volume).patches, batch(model, volume[None]).patches)


def test_numbers_that_do_not_fit_the_channels_are_named():
    with pytest.raises(InputError, match="windows has 2 ranges.*in_channels=3: set in_channels"):
        build(WINDOWS[:2], 3)
    with pytest.raises(InputError, match="image_mean has 3 numbers for.*in_channels=1"):
        build(image_mean=[0.5, 0.4, 0.3])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_three_hu_are_seen_in_bfloat16(dtype):
    """Voxels of [0, 1] in bfloat16 are steps of 8 HU near 800: a texture of 3 would be gone."""
    model = build(dtype=dtype)
    kernel = model.backbone.model.visual.patch_embed.proj.weight.flatten(1)
    centred = kernel.detach().float()
    kernel.data.copy_(centred - centred.mean(1, keepdim=True))
    kernel = kernel.detach().float()
    patches = 0.9 + 3 / 2000 * kernel[:1].sign()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "float32"):
        seen = model.encoder.embed_patches(model.normalize(patches))
        nothing = model.encoder.embed_patches(model.normalize(torch.full_like(patches, 0.9)))
    assert seen.dtype == torch.bfloat16
    contrast = (seen - nothing)[0, 0].item()
    assert contrast == pytest.approx(3 / 2000 * kernel[0].abs().sum().item(), rel=0.05)
