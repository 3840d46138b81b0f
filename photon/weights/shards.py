"""The files of a checkpoint: what is in them, by their headers, and one tensor at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor

from photon.errors import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def checkpoint_folder(name: str | Path) -> Path:
    """A checkpoint's folder: itself, or that of the hub's `owner/name` or `owner/name@branch`.

    Raises InputError where there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    repository, _, revision = str(name).partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name} is not a folder, and not to be had from the Hugging Face hub ({first}). "
            "Correct model.pretrained"
        ) from error


def read_headers(folder: Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint, by stored name; no data is read.

    Raises InputError for missing, truncated and contradicting files, and for weights that are not
    plain floating point numbers.
    """
    index = folder / INDEX
    if index.is_file() and (folder / SINGLE).is_file():
        raise InputError(
            f"{folder} holds both {SINGLE} and {INDEX}: delete the one that is left over"
        )
    placed = _read_index(index) if index.is_file() else {}
    files = sorted(set(placed.values())) if placed else [SINGLE]
    absent = [name for name in files if not (folder / name).is_file()]
    if absent and not placed:
        pickled = any(folder.glob("*.bin"))
        raise InputError(
            f"no weights in {folder}: neither {SINGLE} nor {INDEX} is there"
            + (". Convert the .bin files to safetensors" if pickled else "; copy it again")
        )
    if absent:
        raise InputError(f"{folder}: shards are missing: {', '.join(absent)}. Copy them again")
    found: dict[str, Stored] = {}
    for name in files:
        for stored in read_header(folder / name):
            if stored.name in found:
                raise InputError(
                    f"{stored.name} is both in {found[stored.name].file} and in {name}: the shards "
                    "are of different checkpoints; copy it again"
                )
            found[stored.name] = stored
    wrong = [
        f"{key} (said to be in {name})"
        for key, name in placed.items()
        if key not in found or found[key].file.name != name
    ]
    if wrong:
        raise InputError(
            f"{index}: names weights that are not there: {', '.join(wrong[:5])}. The index and the "
            "shards must come from one checkpoint; copy it again"
        )
    return found


def _read_index(path: Path) -> dict[str, str]:
    """Shard of every stored name."""
    try:
        placed = json.loads(path.read_text())["weight_map"]
        outside = [name for name in placed.values() if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a readable index of shards: copy it again") from error
    if outside or not placed:
        raise InputError(f"{path}: {outside[:1] or 'names no'} shard beside it: copy it again")
    return placed


def read_header(file: Path) -> list[Stored]:
    """The tensors of one file, none of them read. Raises InputError when it is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
            described = {k: (tuple(s.get_shape()), s.get_dtype()) for k, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot load the weights in {file}: {error}. The file is damaged; copy it again"
        ) from error
    for key, (_, dtype) in described.items():
        if dtype not in _DTYPES:
            raise InputError(
                f"{file}: {key} is stored as {dtype}: give an unquantised checkpoint "
                f"({', '.join(_DTYPES)})"
            )
    return [Stored(file, key, shape, _DTYPES[dtype]) for key, (shape, dtype) in described.items()]


def read_tensors(
    stored: dict[str, Stored], dtype: torch.dtype, device: str | torch.device
) -> dict[str, Tensor]:
    """The tensors of `stored` under its keys, each converted as it is read, file by file.

    They are copies: nothing on disk is mapped once this returns. Raises InputError where a number
    is not finite.
    """
    tensors = {}
    for file in sorted({one.file for one in stored.values()}):
        with safe_open(file, framework="pt") as opened:
            for key, one in stored.items():
                if one.file == file:
                    tensor = opened.get_tensor(one.name)
                    tensors[key] = tensor.to(device=device, dtype=dtype, copy=True)
                    if not torch.isfinite(tensors[key]).all():
                        raise InputError(
                            f"{file}: {one.name} has numbers that are not finite. The file is "
                            "damaged, or the training that wrote it diverged; take another"
                        )
    return tensors
