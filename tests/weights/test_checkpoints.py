"""Exports and stock checkpoints: everything accounted for, and nothing random left behind."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from photon.batch.dataset import Collate, Item
from photon.errors import InputError
from photon.model.generate import generate
from photon.pruning.baselines.hiprune import HiPrunePruner
from photon.pruning.its import PhotonPruner
from photon.questions.record import Record
from photon.volume.preparation import Preparation
from photon.weights.backbone import backbone_config, new_backbone
from photon.weights.checkpoints import build_model, load_export, load_tokenizer, save_export
from tests.helpers import TEXT, VISION

SMALL = {"spacing": (3, 3, 3), "crop": (28, 56, 56), "size": (28, 56, 56)}
PATCH = {"patch_size": 14, "temporal_patch_size": 14, "window_size": 56}


def text_config():
    text = {k: v for k, v in TEXT.items() if not k.endswith("_id") and k != "vocab_size"}
    return {**text, "rope_parameters": dict(TEXT["rope_parameters"])}


def build(pruner=None, **options):
    return build_model(
        text_config(),
        {**VISION, **PATCH, **options.pop("vision", {})},
        Preparation(**SMALL),
        pruner,
        **{"tokenizer": "tiny", **options},
    )


def ask(model, **options):
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(28, 56, 56, generator=generator)
    records = [Record("a", "v", "How large is the liver?"), Record("b", "v", "Is it dense?")]
    batch = Collate(model.builder, model.tokenizer, False)([Item((volume,), records)])
    return generate(model.eval(), batch, end_id=-1, max_new_tokens=4, **options)


def test_an_export_round_trips_bitwise(tmp_path):
    model = build(PhotonPruner(hidden=8, tau=0.3, layer=0.5), depth_stride=3, positions="stock")
    save_export(model, tmp_path, {"commit": "abc"})
    loaded = load_export(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert loaded.preparation == model.preparation
    assert loaded.pruner.options == model.pruner.options
    assert (loaded.depth_stride, loaded.slab, loaded.kv) == (3, 1, "full")
    assert loaded.positions == "stock"
    assert ask(loaded).tokens == ask(model).tokens


def test_an_export_keeps_a_pruner_before_the_language_model(tmp_path):
    model = build(HiPrunePruner(keep=0.5, depth=True))
    save_export(model, tmp_path)
    loaded = load_export(tmp_path)
    assert type(loaded.pruner) is HiPrunePruner and loaded.pruner.options == model.pruner.options
    assert ask(loaded).kept_tokens == ask(model).kept_tokens
    assert ask(loaded).tokens == ask(model).tokens


def test_voxels_are_normalized_a_channel_at_a_time(tmp_path):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    options = {"vision": {"in_channels": 3}, "slab": 2}
    model = build(image_mean=mean, image_std=std, **options)
    plain = build(**options)
    volumes = torch.rand(2, 3, 28, 4, 4)  # what one patch column holds, three channels alike
    rows = volumes.flatten(1)
    expected = torch.stack([(volumes[:, c] - mean[c]) / std[c] for c in range(3)], 1).flatten(1)
    torch.testing.assert_close(model.normalize(rows), expected)
    assert torch.equal(plain.normalize(rows), rows)
    save_export(model, tmp_path)
    loaded = load_export(tmp_path)
    assert ask(loaded).tokens == ask(model).tokens
    assert torch.equal(loaded.normalize(rows), model.normalize(rows))


def test_an_export_loads_in_the_stock_class(tmp_path):
    model = build(PhotonPruner(hidden=8))
    save_export(model, tmp_path)
    stock, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(
        stock.model.visual.patch_embed.proj.weight,
        model.backbone.model.visual.patch_embed.proj.weight,
    )


def test_a_new_patch_embedding_over_a_stock_checkpoint_changes_nothing_else(tmp_path):
    """Phase 1 starts so: 14^3 patches of one channel over a (2, 14, 14) RGB checkpoint."""
    words = load_tokenizer("tiny")
    vision = {**VISION, **PATCH, "temporal_patch_size": 2, "in_channels": 3}
    stock = new_backbone(backbone_config(text_config(), vision, words), seed=5)
    stock.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model = build(pretrained=str(tmp_path), tokenizer=None, vision={"in_channels": 1})
    before, after = stock.state_dict(), model.backbone.state_dict()
    changed = [k for k in after if before[k].shape != after[k].shape]
    assert changed == ["model.visual.patch_embed.proj.weight"]
    assert after[changed[0]].shape == (24, 1, 14, 14, 14)
    assert 0.015 < after[changed[0]].std() < 0.025
    assert all(torch.equal(before[k], after[k]) for k in after if k not in changed)
    again = build(pretrained=str(tmp_path), tokenizer=None, vision={"in_channels": 1})
    assert torch.equal(after[changed[0]], again.backbone.state_dict()[changed[0]])


def test_an_inflated_patch_embedding_sees_the_slabs_of_the_stock_one(tmp_path):
    """Before any training, 14^3 patches give the tokens of the (2, 14, 14) RGB embedding on the
    averages of 7 slices."""
    rgb = {"temporal_patch_size": 2, "in_channels": 3}
    stock = build(vision=rgb, slab=7)
    save_export(stock, tmp_path)
    inflated = build(pretrained=str(tmp_path), patch_init="inflate")
    random = build(pretrained=str(tmp_path), patch_init="random")
    volume = torch.rand(28, 56, 56)

    def tokens(model):
        batch = Collate(model.builder, model.tokenizer, False)(
            [Item((volume,), [Record("a", "v", "How large is the liver?")])]
        )
        return model.encode(batch).tokens

    torch.testing.assert_close(tokens(inflated), tokens(stock), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(tokens(random), tokens(stock), atol=1e-2)


def test_a_renamed_key_is_an_error_that_names_it(tmp_path):
    save_export(build(), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(k for k in state if k.endswith("layers.1.mlp.up_proj.weight"))
    state[name.replace("up_proj", "upp_proj")] = state.pop(name)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="layers.1.mlp.up_proj.weight.*upp_proj"):
        load_export(tmp_path, edited=True)


def test_truncated_weights_and_foreign_configurations_are_named(tmp_path):
    save_export(build(), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot load the weights in"):
        load_export(tmp_path, edited=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(InputError, match="llama"):
        load_export(tmp_path, edited=True)


def test_an_export_refuses_volumes_prepared_otherwise(tmp_path):
    save_export(build(), tmp_path)
    with pytest.raises(InputError, match=r"hu=.*trained with"):
        build_model(
            text_config(),
            {**VISION, **PATCH},
            Preparation(**SMALL, hu=(-500, 500)),
            pretrained=str(tmp_path),
        )


def test_a_folder_without_an_export_is_named(tmp_path):
    with pytest.raises(InputError, match="photon.json"):
        load_export(tmp_path)


def test_bfloat16_export_keeps_the_pruner_precise(tmp_path):
    model = build(PhotonPruner(hidden=8))
    save_export(model, tmp_path, dtype=torch.bfloat16)
    state = load_file(tmp_path / "model.safetensors")
    assert {v.dtype for v in state.values()} == {torch.bfloat16}
    assert {v.dtype for v in load_file(tmp_path / "pruner.safetensors").values()} == {torch.float32}
    assert next(model.backbone.parameters()).dtype == torch.float32
    assert next(load_export(tmp_path).backbone.parameters()).dtype == torch.float32


def test_a_misspelt_configuration_field_is_named():
    with pytest.raises(InputError, match="model.vision.window_sise.*window_size"):
        build(vision={"window_sise": 56})


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_export(build(), tmp_path)
    with pytest.raises(InputError, match=r"model.vision.depth=2 \(the weights have 3\)"):
        build(pretrained=str(tmp_path), vision={"depth": 2})


def test_the_packaged_weights_see_like_the_embedding_that_they_were_trained_with():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from tests.conftest import ROOT

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        tiny = OmegaConf.to_container(compose("train", ["model=tiny"]), resolve=False)["model"]
        stock = OmegaConf.to_container(compose("train", ["model=tiny_stock"]), resolve=False)
    options = {k: v for k, v in tiny.items() if k not in ("_target_", "seed")}
    inflated = build_model(**options)
    stock = {k: v for k, v in stock["model"].items() if k not in ("_target_", "seed")}
    original = build_model(**{**stock, "pretrained": "tiny"})
    volume = torch.rand(112, 112, 112)
    prompt = [Item((volume,), [Record("a", "v", "How large is the liver?")])]
    tokens = [
        model.encode(Collate(model.builder, model.tokenizer, False)(prompt)).tokens
        for model in (inflated, original)
    ]
    torch.testing.assert_close(*tokens, atol=1e-4, rtol=1e-3)


def test_a_question_longer_than_the_context_is_named():
    """4 visual tokens, and words: before anything is encoded."""
    text = {**text_config(), "max_position_embeddings": 40}
    model = build_model(text, {**VISION, **PATCH}, Preparation(**SMALL), tokenizer="tiny")
    volume = torch.zeros(28, 56, 56)
    collate = Collate(model.builder, model.tokenizer, False)
    long = Record("too-long", "v", "How large is the liver? " * 20)
    with pytest.raises(InputError, match=r"'too-long' takes \d+ positions .* trained for 40"):
        collate([Item((volume,), [long])])
    deep = build_model(
        {**text, "max_position_embeddings": 100},
        {**VISION, **PATCH},
        Preparation(**SMALL),
        tokenizer="tiny",
        depth_stride=90,
    )
    short = Record("short", "v", "How large is the liver?")
    with pytest.raises(InputError, match="'short' takes"):  # few rows, far positions
        Collate(deep.builder, deep.tokenizer, False)([Item((volume,), [short])])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("positions", "trained"),
        ("depth_stride", 1),
        ("slab", 2),
        ("image_mean", 0.0),
        ("image_std", [0.1, 0.2, 0.4]),
    ],
)
def test_weights_are_read_as_they_were_trained(tmp_path, key, value):
    """A patch embedding of another shape is new to the voxels, the layers are not to positions."""
    trained = {
        "positions": "stock",
        "depth_stride": 3,
        "slab": 1,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.1, 0.2, 0.3],
    }
    channels, half = {"in_channels": 3}, {"in_channels": 3, "temporal_patch_size": 7}
    save_export(build(vision=dict(channels), **trained), tmp_path)
    source = {"pretrained": str(tmp_path), "tokenizer": None}
    build(vision=dict(channels), **source, **trained)
    other = {**trained, key: value}
    with pytest.raises(InputError, match=rf"model\.{key}=.*trained with"):
        build(vision=dict(channels), **source, **other)
    if key == "positions":
        with pytest.raises(InputError, match="model.positions=trained .trained with stock."):
            build(vision=dict(half), **source, **other)
    else:
        build(vision=dict(half), **source, **other)
