"""Loading: every layout bitwise, every difference an error, no weight left random."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from photon.errors import InputError
from photon.volume.preparation import Preparation
from photon.weights.backbone import FAMILIES, empty_backbone, read_config
from photon.weights.checkpoints import build_model, load_tokenizer
from photon.weights.device import find_dtype, for_inference
from photon.weights.loading import open_checkpoint
from tasks.schema import attention_of
from tests.weights.checkpoint_files import shapes, stock_model, stored_state, write

SIZE = Preparation(spacing=(3, 3, 3), crop=(112, 224, 224), size=(112, 224, 224))


def assert_same(model, reference):
    ours, theirs = model.state_dict(), reference.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    for name, value in reference.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], value), name
    assert all(p.device.type == "cpu" and p.requires_grad for p in model.parameters())
    tied = model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", ["current", "older"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_loads_bitwise(tmp_path, family, layout, tied, shards):
    stock = stock_model(family, tied)
    write(tmp_path, stock, stored_state(stock, layout), shards)
    assert_same(open_checkpoint(tmp_path).load_backbone(), stock)
    report = open_checkpoint(tmp_path).report()
    assert (report.layout, report.new, report.unused) == (layout, (), ())
    assert sorted(report.loaded) == sorted(stored_state(stock, layout))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_stock_class_saves_loads_bitwise(tmp_path, family):
    stock = stock_model(family)
    stock.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same(open_checkpoint(tmp_path).load_backbone(), stock)


def test_the_older_layout_is_the_one_that_the_stock_class_reads(tmp_path):
    """Our reading of the layout against the library's, on the same file."""
    stock = stock_model("qwen2_5_vl")
    write(tmp_path, stock, stored_state(stock, "older"))
    theirs, info = FAMILIES["qwen2_5_vl"].model.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same(open_checkpoint(tmp_path).load_backbone(), theirs)


def test_the_hubs_flat_configuration_is_read_whole(tmp_path):
    """Qwen2.5-VL's config.json has the text fields at the top, `rope_scaling` and `in_chans`."""
    stock = stock_model("qwen2_5_vl")
    write(tmp_path, stock, stored_state(stock, "older"))
    nested = json.loads((tmp_path / "config.json").read_text())
    text, vision = nested.pop("text_config"), nested["vision_config"]
    rope = text.pop("rope_parameters")
    vision["in_chans"] = vision.pop("in_channels")
    flat = {**text, **nested, "rope_theta": 12345.0}
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (tmp_path / "config.json").write_text(json.dumps(flat))
    config = read_config(tmp_path)
    assert config.text_config.rope_parameters["rope_theta"] == 12345.0
    assert config.text_config.rope_parameters["mrope_section"] == [1, 2, 1]
    assert config.text_config.hidden_size == 32 and config.tie_word_embeddings
    assert config.vision_config.in_channels == 3
    assert torch.equal(
        open_checkpoint(tmp_path).load_backbone().lm_head.weight, stock.lm_head.weight
    )


def test_a_tied_head_that_is_stored_must_be_the_embedding(tmp_path):
    stock = stock_model()
    state = stored_state(stock)
    head = state["model.language_model.embed_tokens.weight"].clone()
    write(tmp_path, stock, {**state, "lm_head.weight": head})
    assert_same(open_checkpoint(tmp_path).load_backbone(), stock)
    assert open_checkpoint(tmp_path).report().unused == ("lm_head.weight",)
    write(tmp_path, stock, {**state, "lm_head.weight": head + 1})
    with pytest.raises(InputError, match="ties the head.*lm_head.weight differs"):
        open_checkpoint(tmp_path).load_backbone()


def test_precision_is_the_asked_one(tmp_path):
    stock = stock_model("qwen3_vl").to(torch.bfloat16)
    write(tmp_path, stock, stored_state(stock))
    found = open_checkpoint(tmp_path)
    assert find_dtype("auto", found.dtype) == torch.bfloat16
    wide = found.load_backbone(find_dtype("float32", found.dtype))
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert_same(wide.to(torch.bfloat16), stock)
    narrow = found.load_backbone(torch.bfloat16)
    assert {b.dtype for b in narrow.buffers()} == {torch.float32}  # rotary frequencies
    with pytest.raises(ValueError, match="model.dtype='float16': legal values are float32"):
        find_dtype("float16", found.dtype)
    write(tmp_path, stock.half(), stored_state(stock.half()))
    with pytest.raises(InputError, match="stored in float16: set model.dtype to float32"):
        find_dtype("auto", open_checkpoint(tmp_path).dtype)


def test_a_loaded_model_does_not_lean_on_its_file(tmp_path):
    """Weights are copies: an export may be written over the checkpoint that it came from."""
    stock = stock_model()
    file = write(tmp_path, stock, stored_state(stock)) / "model.safetensors"
    model = open_checkpoint(tmp_path).load_backbone()
    file.write_bytes(bytes(file.stat().st_size))
    assert_same(model, stock)


def corrupt(folder, name, change):
    state = load_file(folder / name)
    change(state)
    save_file(state, folder / name, metadata={"format": "pt"})


@pytest.mark.parametrize("layout", ["current", "older"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_renamed_weight_is_named_twice(tmp_path, family, layout):
    stock = stock_model(family)
    state = stored_state(stock, layout)
    name = next(k for k in state if k.endswith("layers.1.mlp.up_proj.weight"))
    state[name.replace("up_", "upp_")] = state.pop(name)
    write(tmp_path, stock, state)
    with pytest.raises(InputError) as caught:
        open_checkpoint(tmp_path)
    assert f"missing: {name}; not used: {name.replace('up_', 'upp_')})" in str(caught.value)


def test_damaged_files_are_named_before_any_weight_is_read(tmp_path):
    stock = stock_model()
    write(tmp_path, stock, stored_state(stock), shards=3)
    index = tmp_path / "model.safetensors.index.json"
    second = tmp_path / "model-00002-of-00003.safetensors"
    whole, placed = second.read_bytes(), index.read_text()

    second.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="00002-of-00003.safetensors: .*damaged; copy it again"):
        open_checkpoint(tmp_path)
    second.write_bytes(whole[:4])
    with pytest.raises(InputError, match="00002-of-00003.safetensors: .*damaged"):
        open_checkpoint(tmp_path)
    second.unlink()
    with pytest.raises(InputError, match="shards are missing: model-00002-of-00003.safetensors"):
        open_checkpoint(tmp_path)
    second.write_bytes(whole)

    more = json.loads(placed)
    more["weight_map"]["model.extra.weight"] = second.name
    index.write_text(json.dumps(more))
    with pytest.raises(InputError, match=r"not there: model.extra.weight \(said to be in model-"):
        open_checkpoint(tmp_path)
    index.write_text(placed[:-10])
    with pytest.raises(InputError, match="index.json is not a readable index"):
        open_checkpoint(tmp_path)
    more["weight_map"] = {"a": "../model.safetensors"}
    index.write_text(json.dumps(more))
    with pytest.raises(InputError, match="shard beside it"):
        open_checkpoint(tmp_path)
    index.write_text(placed)
    (tmp_path / "model.safetensors").write_bytes(whole)
    with pytest.raises(InputError, match="holds both model.safetensors and"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert_same(open_checkpoint(tmp_path).load_backbone(), stock)


def test_weights_that_are_not_a_backbones_are_refused(tmp_path):
    stock = stock_model()
    file = write(tmp_path, stock, stored_state(stock)) / "model.safetensors"
    corrupt(tmp_path, file.name, lambda s: s.update({"model.norm.weight": torch.ones(32)}))
    with pytest.raises(InputError, match="not used: model.norm.weight"):
        open_checkpoint(tmp_path)
    state = stored_state(stock)
    state["model.language_model.norm.weight"] = torch.ones(32, dtype=torch.int8)
    save_file(state, file)
    with pytest.raises(InputError, match="norm.weight is stored as I8: give an unquantised"):
        open_checkpoint(tmp_path)
    state["model.language_model.norm.weight"] = torch.ones(31)
    save_file(state, file)
    with pytest.raises(InputError, match=r"another shape: .*norm.weight \[31\].*\[32\]"):
        open_checkpoint(tmp_path)
    file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="no weights in .* Convert the .bin files"):
        open_checkpoint(tmp_path)


def test_configurations_of_other_models_are_refused(tmp_path):
    stock = stock_model("qwen2_5_vl")
    write(tmp_path, stock, stored_state(stock))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(InputError, match="a llama model; .*Qwen2.5-VL or Qwen3-VL"):
        open_checkpoint(tmp_path)
    stock_model("qwen3_vl").config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="does not fit its configuration"):
        open_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="config.json: cannot be read"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="not a folder, and not to be had from the Hugging Face"):
        open_checkpoint("nobody/no-such-model@main")


def test_the_asked_family_and_tokenizer_must_be_those_of_the_weights(tmp_path):
    stock = stock_model("qwen3_vl")
    write(tmp_path, stock, stored_state(stock))
    text, vision = shapes("qwen3_vl")
    with pytest.raises(InputError, match=r"model.family=qwen2_5_vl \(the weights have qwen3_vl\)"):
        build_model(*shapes("qwen2_5_vl"), SIZE, pretrained=str(tmp_path))
    words = load_tokenizer("tiny")
    words.add_tokens([f"<extra{i}>" for i in range(30)])
    words.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"vocab_size=\d+ is smaller than the tokenizer's"):
        build_model(text, vision, SIZE, pretrained=str(tmp_path), family="qwen3_vl")
    load_tokenizer("tiny").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["video_token_id"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"<\|video_pad\|> the id \d+, .* \(video_token_id\)"):
        build_model(text, vision, SIZE, pretrained=str(tmp_path), family="qwen3_vl")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_backbone_has_shapes_and_rotary_frequencies_only(family):
    stock = stock_model(family)
    empty = empty_backbone(stock.config)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    narrow = empty_backbone(stock.config, torch.bfloat16)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in narrow.buffers()} == {torch.float32}
    for name, value in stock.named_buffers():
        assert torch.equal(dict(empty.named_buffers())[name], value), name


def test_what_a_machine_answers_with(monkeypatch):
    """The fastest that is there; what was asked for stays."""
    there = {"flash_attn", "torch.nn.attention.varlen"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in there or None)
    assert for_inference("cpu") == ("cpu", torch.float32, "sdpa")
    assert for_inference("cuda:1") == ("cuda:1", torch.bfloat16, "flash")
    there.remove("flash_attn")
    assert for_inference("cuda") == ("cuda", torch.bfloat16, "varlen")
    assert for_inference("cuda", torch.float32) == ("cuda", torch.float32, "sdpa")
    assert for_inference("cuda", attention="sdpa") == ("cuda", torch.bfloat16, "sdpa")
    assert for_inference("cpu", "auto", stored=torch.bfloat16) == ("cpu", torch.bfloat16, "sdpa")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for accelerator, precision, found in (
        ("gpu", "bf16-mixed", "varlen"),
        ("gpu", None, "varlen"),  # a plugin's, as ZeRO-2 has it
        ("gpu", "32-true", "sdpa"),
        ("cpu", "bf16-mixed", "sdpa"),
    ):
        trainer = {"accelerator": accelerator, "precision": precision}
        assert attention_of({"model": {"attention": "auto"}, "trainer": trainer}) == found
        assert attention_of({"model": {"attention": "flash"}, "trainer": trainer}) == "flash"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert for_inference() == ("cuda:1", torch.bfloat16, "varlen")
