"""Exports of every family and the patch embeddings that they start from."""

import pytest
import torch

from photon.errors import InputError
from photon.pruning.baselines.uniform import UniformPruner
from photon.pruning.its import PhotonPruner
from photon.volume.preparation import Preparation
from photon.weights.backbone import FAMILIES, replace_patch_embedding
from photon.weights.checkpoints import build_model, load_export, replace_pruner, save_export
from photon.weights.checks import check_threshold
from photon.weights.loading import open_checkpoint
from tests.weights.checkpoint_files import shapes, stock_model

SIZE = Preparation(spacing=(3, 3, 3), crop=(112, 224, 224), size=(112, 224, 224))


def build(family="qwen2_5_vl", tied=True, pruner=None, **options):
    text, vision = shapes(family, temporal_patch_size=SIZES[family], in_channels=1)
    text["tie_word_embeddings"] = tied
    return build_model(
        text, vision, SIZE, pruner, family=family, **{"tokenizer": "tiny", **options}
    )


SIZES = {"qwen2_5_vl": 14, "qwen3_vl": 16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_round_trips_bitwise_and_loads_in_stock(tmp_path, family, tied, dtype):
    model = build(family, tied, PhotonPruner(hidden=8), dtype=dtype, air=-900)
    assert {p.dtype for p in model.backbone.parameters()} == {getattr(torch, dtype)}
    save_export(model, tmp_path)
    loaded = load_export(tmp_path, dtype=getattr(torch, dtype))
    stock, info = FAMILIES[family].model.from_pretrained(
        tmp_path, dtype="auto", output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.air == -900
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(stock.state_dict()[name], value), name
    again = tmp_path / "again"
    save_export(loaded, again)
    for file in ("model.safetensors", "pruner.safetensors", "config.json", "photon.json"):
        assert (again / file).read_bytes() == (tmp_path / file).read_bytes(), file
    auto = build(family, tied, pretrained=str(tmp_path), tokenizer=None, dtype="auto")
    assert next(auto.backbone.parameters()).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_inflated_kernel_answers_as_the_old_one(family, channels):
    """A volume repeated over the channels gives the old embedding's response to slab averages."""
    model = stock_model(family)
    patch = model.model.visual.patch_embed
    depth, side = SIZES[family], SIZES[family]
    volume = torch.rand(5, 1, depth, side, side)
    slabs = volume.unflatten(2, (2, depth // 2)).mean(3).expand(-1, 3, -1, -1, -1)
    before = patch(slabs.flatten(1))
    bias = patch.proj.bias
    assert (bias is not None) == (family == "qwen3_vl")
    assert replace_patch_embedding(model, depth, channels, "inflate")
    after = patch(volume.expand(-1, channels, -1, -1, -1).flatten(1))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    assert patch.proj.bias is bias
    assert not replace_patch_embedding(model, depth, channels, "inflate")  # nothing left to do


@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_kernel_keeps_the_bias(family):
    model = stock_model(family).to(torch.bfloat16)
    bias = model.model.visual.patch_embed.proj.bias
    replace_patch_embedding(model, SIZES[family], 1, "random")
    proj = model.model.visual.patch_embed.proj
    assert proj.bias is bias and proj.weight.dtype == torch.bfloat16
    assert 0.015 < proj.weight.std() < 0.025
    with pytest.raises(ValueError, match="patch of 3 slices cannot take over"):
        replace_patch_embedding(stock_model(family), 3, 1, "inflate")


def trained_pruner(**options):
    pruner = PhotonPruner(hidden=8, **options)
    torch.nn.init.constant_(pruner.predictor.mlp[2].bias, 0.3)
    return pruner


def test_a_trained_threshold_comes_along_under_other_switches(tmp_path):
    pruner = trained_pruner()
    save_export(build(pruner=pruner), tmp_path)
    model = build(pruner=PhotonPruner(hidden=8, tau=0.5), pretrained=str(tmp_path), tokenizer=None)
    assert model.pruner.tau == 0.5
    assert torch.equal(model.pruner.predictor.mlp[2].bias, pruner.predictor.mlp[2].bias)
    model = load_export(tmp_path)
    replace_pruner(model, PhotonPruner(hidden=8, theta_noise=0.1))
    assert model.pruner.theta_noise == 0.1
    check_threshold(model.pruner, None)
    report = open_checkpoint(tmp_path).report(pruner=True)
    assert "predictor.mlp.0.weight" in report.loaded and not report.unused


def test_an_untrained_threshold_needs_a_budget(tmp_path):
    save_export(build(), tmp_path)
    model = load_export(tmp_path)
    pruner = PhotonPruner(hidden=8)
    replace_pruner(model, pruner)
    with pytest.raises(InputError, match="no trained threshold.*evaluation.keep=0.47 or --keep"):
        check_threshold(model.pruner, None)
    check_threshold(model.pruner, 0.3)
    for fine in (PhotonPruner(theta=0.5), PhotonPruner(keep=0.3), UniformPruner(), None):
        check_threshold(fine, None)
    replace_pruner(model, None)
    assert model.pruner is None


def test_an_export_without_its_pruners_file_is_refused(tmp_path):
    save_export(build(pruner=PhotonPruner(hidden=8)), tmp_path)
    (tmp_path / "pruner.safetensors").unlink()
    with pytest.raises(InputError, match="pruner.safetensors is missing or does not fit"):
        load_export(tmp_path, edited=True)
