"""The authors' checkpoints: written from their key names, loaded whole, one fault named."""

import json

import pytest
import torch

from photon.batch.dataset import Collate, Item
from photon.commands.cli import main
from photon.errors import InputError
from photon.model.decoding import Sampling
from photon.model.generate import generate
from photon.packing import Segments
from photon.pruning.its import PhotonPruner
from photon.pruning.threshold import threshold_features
from photon.questions.record import Record
from photon.volume.preparation import Preparation
from photon.weights.checkpoints import build_model, load_export
from photon.weights.loading import open_checkpoint
from tests.weights.checkpoint_files import shapes, stock_model, stored_state, write

ATP = "model.layers.0.atp."  # 4 layers: n / 4 - 1
HIDDEN = 32 // 8
OFFICIAL = Preparation.preset("official")


def predictor(seed=3):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"0.weight": (HIDDEN, 12), "0.bias": (HIDDEN,), "2.weight": (1, HIDDEN), "2.bias": (1,)}
    return {k: torch.randn(v, generator=generator) for k, v in sizes.items()}


def official(folder, stage=2, shards=1, change=None):
    """A tiny Photon-S1 or S2 with the names of the released module tree (Transformers 4.51)."""
    stock = stock_model("qwen2_5_vl", temporal_patch_size=14, in_channels=1)
    state = stored_state(stock, "older")
    state["visual.vision_patch_embed.proj.weight"] = state.pop("visual.patch_embed.proj.weight")
    if stage == 2:
        state |= {f"{ATP}predictor.mlp.{k}": v for k, v in predictor().items()}
        state[f"{ATP}pos_proj.weight"] = torch.zeros(32, 1)
    if change:
        change(state)
    write(folder, stock, state, shards)
    config = json.loads((folder / "config.json").read_text())
    text, vision = config.pop("text_config"), config["vision_config"]
    vision["in_chans"] = vision.pop("in_channels")  # which the stock class ignores
    rope = text.pop("rope_parameters")
    flat = {**text, **config, "rope_theta": rope["rope_theta"]}
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (folder / "config.json").write_text(json.dumps(flat))
    return stock


def build(folder, pruner=None, **changes):
    text, vision = shapes("qwen2_5_vl", temporal_patch_size=14, in_channels=1)
    preparation = Preparation.preset("official", **changes)
    own = {"depth_stride": 28, "leading_space": True}
    return build_model(text, vision, preparation, pruner, str(folder), **own)


def profile(**options):
    given = {"direction": "paper", "statistics": "all", "recentre": True, "score_gradient": False}
    given["as_released"] = True
    return PhotonPruner(**{"hidden": HIDDEN, "theta_scale": 0.9, **given, **options})


@pytest.mark.parametrize("shards", [1, 3])
def test_s2_loads_with_nothing_unused_but_pos_proj(tmp_path, shards, caplog):
    stock = official(tmp_path, shards=shards)
    caplog.set_level("INFO")
    model = build(tmp_path, profile())
    report = open_checkpoint(tmp_path).report(pruner=True)
    assert (report.layout, report.new) == ("official", ())
    assert report.unused == (f"{ATP}pos_proj.weight",)
    assert "new: none; unused: model.layers.0.atp.pos_proj.weight" in caplog.text
    for name, value in stock.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value), name
    for name, value in predictor().items():
        assert torch.equal(model.pruner.state_dict()[f"predictor.mlp.{name}"], value), name
    assert model.backbone.config.vision_config.in_channels == 1


def test_a_folder_of_the_authors_is_a_whole_model(tmp_path):
    """What their scripts fix comes along, and the model answers and exports as ours do."""
    source, target = tmp_path / "s2", tmp_path / "export"
    source.mkdir()
    official(source)
    model = load_export(source)
    assert model.preparation == OFFICIAL
    assert (model.depth_stride, model.kv, model.cut) == (28, "compact", 1)
    assert model.leading_space
    assert model.pruner.options == profile().options
    assert main(["export", str(source), str(target), "--dtype", "float32"]) == 0
    again = load_export(target)
    generator = torch.Generator().manual_seed(0)
    item = Item((torch.rand(28, 56, 56, generator=generator),), [Record("a", "v", "Is it large?")])
    batch = Collate(model.builder, model.tokenizer, False)([item])
    ours, theirs = (generate(m, batch, end_id=-1, max_new_tokens=3) for m in (model, again))
    assert ours.tokens == theirs.tokens and ours.kept_tokens == theirs.kept_tokens


def test_how_a_checkpoint_draws_its_answers_goes_with_it_to_the_export(tmp_path):
    source, target = tmp_path / "s2", tmp_path / "export"
    source.mkdir()
    official(source)
    qwen = {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05}
    (source / "generation_config.json").write_text(json.dumps(qwen))
    assert main(["export", str(source), str(target), "--dtype", "float32"]) == 0
    for folder in (source, target):
        config = load_export(folder).backbone.generation_config
        assert Sampling.of_checkpoint(config) == Sampling(1e-6, 1.0, 50, 0, 1.05)
    (source / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"generation_config\.json"):
        load_export(source)


def test_s1_prunes_nothing_and_a_new_predictor_is_said_to_be_new(tmp_path, caplog):
    official(tmp_path, stage=1)
    assert load_export(tmp_path).pruner is None
    caplog.set_level("INFO")
    build(tmp_path, profile())
    assert "new: pruner.predictor.mlp.0.weight" in caplog.text
    assert caplog.text.rstrip().endswith("unused: none")


def test_a_pruner_of_another_kind_leaves_the_stored_one_unused(tmp_path, caplog):
    official(tmp_path)
    caplog.set_level("INFO")
    assert build(tmp_path, None).pruner is None
    assert f"{ATP}predictor.mlp.0.weight" in caplog.text.split("unused:")[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"{ATP}predictor.mlp.2.bias", f"{ATP}predictor.mlp.3.bias"),
        ("visual.vision_patch_embed.proj.weight", "visual.vision_patch_embedding.proj.weight"),
        ("model.layers.2.mlp.up_proj.weight", "model.layers.2.mlp.upp_proj.weight"),
        (f"{ATP}pos_proj.weight", "model.layers.1.atp.pos_proj.weight"),
    ],
)
def test_one_renamed_key_fails_with_both_names(tmp_path, old, new):
    official(tmp_path, change=lambda state: state.update({new: state.pop(old)}))
    with pytest.raises(InputError) as caught:
        build(tmp_path, profile())
    assert new in str(caught.value)
    assert old in str(caught.value) or "pos_proj" in old  # whose absence is no loss


def test_another_preparation_is_refused(tmp_path):
    official(tmp_path)
    with pytest.raises(InputError, match=r"intensity=window \(trained with minmax\)"):
        build(tmp_path, profile(), intensity="window")


def test_the_threshold_reads_its_features_in_the_released_order():
    """Shape of rho (mean, std, min, max, lower quartile, median), u (mean, std, min, max), and the
    signed logarithm of u (mean, max): `ThresholdMLP.get_feature` of the released code."""
    u = torch.tensor([-2.0, -0.5, 0.25, 1.0, 3.0, 7.0], dtype=torch.float64)
    rho = (u - u.min()) / (u.max() - u.min())
    slog = u.sign() * (1 + u.abs()).log()
    expected = [
        *(rho.mean(), rho.std(correction=0), rho.min(), rho.max()),
        *(rho.quantile(0.25), rho.quantile(0.5)),
        *(u.mean(), u.std(correction=0), u.min(), u.max()),
        *(slog.mean(), slog.max()),
    ]
    torch.testing.assert_close(threshold_features(u, rho, Segments([6]))[0], torch.stack(expected))


def test_the_files_of_the_configuration_are_the_released_profile():
    """experiment=photon_official says what a folder brings, and what their training fixes."""
    from photon.weights.official import official_spec
    from tests.test_configs import compose

    config = compose("experiment=photon_official")
    spec = official_spec(stock_model().config, prunes=True)
    assert Preparation.from_dict(dict(config.model.preparation)) == OFFICIAL
    assert Preparation.from_dict(spec["preparation"]) == OFFICIAL
    for key in ("depth_stride", "slab", "image_mean", "image_std", "leading_space", "kv"):
        assert config.model[key] == spec[key], key
    options = spec["pruner"]["options"]
    assert {k: config.pruner[k] for k in options if k != "hidden"} == {
        k: v for k, v in options.items() if k != "hidden"
    }
    assert config.pruner.hidden == config.model.text.hidden_size // 8
    finetune = config.task.finetune
    assert (finetune.band.on, finetune.routing) == ("soft", "exclusive")
    assert (finetune.robust.probability, finetune.robust.exact) == (0.15, False)
    assert (config.evaluation.max_new_tokens, config.trainer.accumulate_grad_batches) == (512, 2)
    assert config.evaluation.decoding == "checkpoint"
