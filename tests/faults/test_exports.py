"""Exports with one fault: found when they are loaded, by file and key; no code of theirs runs."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from photon.commands.cli import main
from photon.errors import InputError
from photon.pruning.its import PhotonPruner
from photon.weights.checkpoints import load_export, load_tokenizer, save_export
from photon.weights.manifest import changes, write_manifest
from tests.weights.test_checkpoints import build


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "export"
    save_export(build(PhotonPruner(hidden=8)), folder)
    return folder


@pytest.fixture
def export(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "export"))


FILES = ("model.safetensors", "pruner.safetensors", "config.json", "photon.json", "tokenizer.json",
         "tokenizer_config.json", "manifest.json")  # fmt: skip


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_every_change_of_a_file_is_found(export, name, how) -> None:
    path = export / name
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    changed = {"flipped": bytes(content), "cut": bytes(content[:-20]), "empty": b""}
    path.write_bytes(changed[how]) if how in changed else path.unlink()
    with pytest.raises(InputError, match=f"{name}|no config.json|manifest"):
        load_export(export)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("file", "part"),
    [("pruner.safetensors", "mlp.0.weight"), ("model.safetensors", "patch_embed.proj.weight"),
     ("model.safetensors", "layers.0.mlp.up_proj.weight")],
)  # fmt: skip
def test_numbers_that_are_not_finite_are_found_whoever_sealed_them(
    export, file, part, number
) -> None:
    state = load_file(export / file)
    name = next(key for key in state if key.endswith(part))
    state[name].view(-1)[0] = number
    save_file(state, export / file, metadata={"format": "pt"})
    write_manifest(export)
    with pytest.raises(InputError, match=f"{file}: .*{part} has numbers that are not finite"):
        load_export(export)


SPEC = [("format", 1), ("kv", "half"), ("slab", 0), ("image_std", 0), ("positions", "up"),
        ("preparation", []), ("pruner", "photon"), ("pruner", {"name": "photon"}), ("air", "x"),
        ("depth_stride", "two"),
        ("pruner", {"name": "nobody", "options": {}}),
        ("pruner", {"name": "photon", "options": {"tau": -1}}),
        ("pruner", {"name": "photon", "options": {"evil": 1}})]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), SPEC, ids=str)
def test_photon_json_is_read_by_a_schema(export, key, value) -> None:
    path = export / "photon.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError) as caught:
        load_export(export, edited=True)
    assert key in str(caught.value) or "pruner" in str(caught.value)


CONFIG = [
    ("_attn_implementation_internal", "owner/kernel"),
    ("attn_implementation", "a/b:c"),
    ("_attn_implementation", "owner/kernel"),
    ("model_type", "llama"),
    ("text_config", 5),
]


@pytest.mark.parametrize(("key", "value"), CONFIG, ids=str)
def test_config_json_chooses_no_code(export, key, value) -> None:
    path = export / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match="config.json"):
        load_export(export, edited=True)


def test_a_tokenizer_with_code_of_its_own_is_never_asked_about(export, monkeypatch) -> None:
    mark = export / "ran"
    (export / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Words: pass\n")
    path = export / "tokenizer_config.json"
    told = {"auto_map": {"AutoTokenizer": ["evil.Words", None]}, "tokenizer_class": "Words"}
    path.write_text(json.dumps(json.loads(path.read_text()) | told))

    class Reader:
        def readline(self, *_):
            raise AssertionError("standard input was read")

        read = readline

    monkeypatch.setattr(sys, "stdin", Reader())
    monkeypatch.setattr("builtins.input", Reader().readline)
    try:
        load_tokenizer(str(export))
    except InputError as error:
        assert str(export) in str(error)
    assert not mark.exists()


def test_edited_weights_are_taken_when_they_are_accepted(export, capsys) -> None:
    state = load_file(export / "model.safetensors")
    name = next(key for key in state if key.endswith("layers.0.mlp.up_proj.weight"))
    state[name] *= 2
    save_file(state, export / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model.safetensors \(changed\).*photon accept"):
        load_export(export)
    assert main(["accept", str(export)]) == 0
    assert "model.safetensors: changed" in capsys.readouterr().out and not changes(export)
    assert torch.isfinite(next(load_export(export).parameters())).all()
