"""Exports in Hugging Face's Auto classes and in the stock class, side by side."""

import importlib
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from photon.batch.dataset import Collate, Item
from photon.errors import InputError
from photon.imports import when_imported
from photon.model.generate import generate
from photon.model.photon import PhotonModel
from photon.questions.record import Record
from photon.weights.checkpoints import save_export
from photon.weights.hf import PhotonForVolumeQuestions
from tests.helpers import FAMILIES, backbone
from tests.model.test_dialogue import small_model, volumes

STOCK = {"qwen2_5": Qwen2_5_VLForConditionalGeneration, "qwen3": Qwen3VLForConditionalGeneration}


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory):
    """(family, model, folder of its export)"""
    model, folder = small_model(request.param), tmp_path_factory.mktemp("export")
    save_export(model, folder)
    return request.param, model, folder


def asked(model):
    records = [Record("a", "", "How large is the liver?"), Record("b", "", "Is it dense?")]
    return Collate(model.builder, model.tokenizer, False)([Item(tuple(volumes()), records)])


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForImageTextToText])
def test_auto_classes_load_the_pruned_model(exported, auto):
    """Weights bitwise, and the answers by every way of asking."""
    _, model, folder = exported
    loaded = auto.from_pretrained(folder, trust_remote_code=False)
    assert type(loaded) is PhotonForVolumeQuestions and not loaded.training
    same(model.state_dict(), loaded.photon.state_dict())
    batch = asked(model)
    expected = generate(model, batch, max_new_tokens=4)
    assert 0 < min(expected.kept_tokens) < expected.visual_tokens[0]
    assert generate(loaded.photon, batch, max_new_tokens=4).tokens == expected.tokens
    ids = loaded.generate(batch, max_new_tokens=4, do_sample=False)
    start = batch.prompt_ids(0).shape[1]
    for row, tokens in zip(ids[:, start:].tolist(), expected.tokens, strict=True):
        assert row[: len(tokens)] == tokens


def test_save_pretrained_round_trips_bitwise(exported, tmp_path):
    _, model, folder = exported
    loaded = AutoModel.from_pretrained(folder)
    loaded.save_pretrained(tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in ("model.safetensors", "pruner.safetensors", "config.json", "photon.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name
    same(model.state_dict(), AutoModel.from_pretrained(tmp_path).photon.state_dict())


def test_the_same_export_loads_in_the_stock_class_with_nothing_random(exported):
    """Stock says that the type is another one, and takes every weight."""
    family, model, folder = exported
    stock, info = STOCK[family].from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    same(model.backbone.state_dict(), stock.state_dict())


def test_configuration_and_tokenizer_load_by_themselves(exported):
    family, model, folder = exported
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, type(STOCK[family].config_class()))
    assert config.text_config.hidden_size == 32
    text = "How large is the liver?"
    assert AutoTokenizer.from_pretrained(folder).encode(text) == model.tokenizer.encode(text)


def test_stock_checkpoints_stay_stock(tmp_path):
    backbone(dtype=torch.float32).save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is Qwen2_5_VLForConditionalGeneration


def test_a_damaged_export_is_an_error_and_never_random_weights(exported, tmp_path):
    _, model, _ = exported
    save_export(model, tmp_path)
    (tmp_path / "pruner.safetensors").unlink()
    with pytest.raises(InputError, match="pruner.safetensors"):
        AutoModel.from_pretrained(tmp_path)
    (tmp_path / "photon.json").unlink()
    with pytest.raises(InputError, match="photon.json"):
        AutoModel.from_pretrained(tmp_path)


def test_options_that_an_export_does_not_have_are_named(exported):
    _, _, folder = exported
    with pytest.raises(ValueError, match="load_in_8bit"):
        AutoModel.from_pretrained(folder, load_in_8bit=True)
    with pytest.raises(ValueError, match="wraps a PhotonModel"):
        AutoModel.from_config(AutoConfig.from_pretrained(folder))


def test_dtype_is_that_which_was_asked_for(exported):
    _, model, folder = exported
    loaded = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert {p.dtype for p in loaded.photon.pruner.parameters()} == {torch.float32}
    assert isinstance(loaded.photon, PhotonModel)


def test_import_photon_is_enough_and_imports_nothing_heavy(tmp_path, root):
    save_export(small_model(), tmp_path)
    code = f"""
import sys, photon
print(sorted({{"torch", "transformers", "numpy"}} & set(sys.modules)))
from transformers import AutoModel
print(type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["[]", "PhotonForVolumeQuestions"], done.stderr


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_call_follows_another_import_in_any_order(order, tmp_path, monkeypatch):
    """Once, after the other module's code has run, and not before it is asked for."""
    monkeypatch.syspath_prepend(tmp_path)
    theirs, ours = f"theirs_{order}", f"ours_{order}"
    body = f"calls = []\ndef call():\n    import {theirs}\n    calls.append({theirs}.value)\n"
    (tmp_path / f"{theirs}.py").write_text("value = 1\n")
    (tmp_path / f"{ours}.py").write_text(body)
    finders = list(sys.meta_path)
    if order == "after":
        importlib.import_module("theirs_after")
    when_imported(theirs, ours, "call")
    if order == "before":
        assert "ours_before" not in sys.modules
        importlib.import_module("theirs_before")
        importlib.reload(sys.modules["theirs_before"])
    assert sys.modules[ours].calls == [1] and sys.meta_path == finders
