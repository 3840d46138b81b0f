"""Weights of a checkpoint into a stock backbone, every one accounted for.

The stock loader only warns about weights that do not fit, and leaves random ones in their places.
Here names, shapes and files are compared before any data is read, and every difference is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig

from photon.errors import InputError
from photon.weights.backbone import empty_backbone, read_config
from photon.weights.keys import PRUNER, Layout, find_layout
from photon.weights.manifest import check_manifest
from photon.weights.official import pruner_shapes
from photon.weights.shards import (
    Stored,
    checkpoint_folder,
    read_header,
    read_headers,
    read_tensors,
)

PRUNER_FILE = "pruner.safetensors"
_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's weights; names as stored, those of `new` as in the module."""

    source: str
    layout: str
    loaded: tuple[str, ...]
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{len(self.loaded)} weights loaded from {self.source} ({self.layout} key layout); "
            f"new: {', '.join(self.new) or 'none'}; unused: {', '.join(self.unused) or 'none'}"
        )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files and names have been found to fit its configuration."""

    folder: Path
    config: PreTrainedConfig
    layout: Layout
    weights: dict[str, Stored]  # by the backbone's own names
    pruner: dict[str, Stored]  # by a pruner's own names; empty where there is none
    ignored: tuple[str, ...]  # stored names without a use

    @property
    def dtype(self) -> torch.dtype:
        """That of most weights."""
        return Counter(one.dtype for one in self.weights.values()).most_common(1)[0][0]

    def load_backbone(
        self, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> nn.Module:
        """The backbone with the stored weights, converted one by one: the only copy in memory.

        Raises InputError where a stored head contradicts the configuration's tied embedding.
        """
        model = empty_backbone(self.config)
        state = read_tensors(self.weights, dtype, device)
        if self.config.tie_word_embeddings:
            if _HEAD in state and not torch.equal(state[_HEAD], state[_EMBEDDING]):
                raise InputError(
                    f"{self.folder}: config.json ties the head to the token embedding, but the "
                    f"stored {_HEAD} differs from it. Set tie_word_embeddings to what the weights "
                    "were trained with"
                )
            state[_HEAD] = state[_EMBEDDING]
        model.load_state_dict(state, strict=True, assign=True)
        model.tie_weights()
        model.generation_config = read_generation(self.folder) or model.generation_config
        return model.to(device).requires_grad_(True)

    def load_pruner(self, pruner: nn.Module) -> bool:
        """`take_weights` from the file, in float32: a threshold is compared with scores."""
        return take_weights(pruner, read_tensors(self.pruner, torch.float32, "cpu"))

    def report(self, new: Sequence[str] = (), pruner: bool = False) -> LoadReport:
        """The account of a load; `pruner` says whether its weights were used."""
        unused = list(self.ignored)
        loaded = [one.name for one in self.weights.values()]
        (loaded if pruner else unused).extend(one.name for one in self.pruner.values())
        if self.config.tie_word_embeddings and _HEAD in self.weights:
            loaded.remove(_HEAD)
            unused.append(_HEAD)
        return LoadReport(
            str(self.folder), self.layout.title, tuple(loaded), tuple(new), tuple(unused)
        )


def read_generation(folder: Path) -> GenerationConfig | None:
    """How a checkpoint's authors draw its answers; None where generation_config.json is not there.

    Raises InputError for one that Transformers would not write with an export again.
    """
    if not (folder / "generation_config.json").is_file():
        return None
    try:
        config = GenerationConfig.from_pretrained(folder)
        config.validate(strict=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'generation_config.json'}: {error}") from error
    return config


def open_checkpoint(name: str | Path, edited: bool = False) -> Checkpoint:
    """Compare a checkpoint (a folder or a hub name, see `checkpoint_folder`) with its config.json.

    Reads headers only, and of an export all files once, for their digests, unless it may have been
    `edited`. Raises InputError that lists what is missing, not used or of another shape.
    """
    folder = checkpoint_folder(name)
    if not edited:
        check_manifest(folder)
    config = read_config(folder)
    stored = read_headers(folder)
    layout = find_layout(stored, config.text_config.num_hidden_layers)
    ignored = tuple(name for name in stored if name in layout.ignored)
    named: dict[str, Stored] = {}
    for key, one in stored.items():
        if key in ignored:
            continue
        if layout.ours(key) in named:
            raise InputError(
                f"{folder}: {key} and {named[layout.ours(key)].name} are the same weight in two "
                "layouts: copy the checkpoint again"
            )
        named[layout.ours(key)] = one
    _check_weights(folder, config, layout, named)
    weights = {key: one for key, one in named.items() if not key.startswith(PRUNER)}
    pruner = {key[len(PRUNER) :]: one for key, one in named.items() if key.startswith(PRUNER)}
    if (folder / PRUNER_FILE).is_file():
        pruner = {one.name: one for one in read_header(folder / PRUNER_FILE)}
    return Checkpoint(folder, config, layout, weights, pruner, ignored)


def _check_weights(
    folder: Path, config: PreTrainedConfig, layout: Layout, weights: dict[str, Stored]
) -> None:
    expected = {k: tuple(v.shape) for k, v in empty_backbone(config).state_dict().items()}
    if any(key.startswith(PRUNER) for key in weights):
        expected |= pruner_shapes(config)
    needed = set(expected) - ({_HEAD} if config.tie_word_embeddings else set())
    faults = {
        "missing": sorted(layout.stored(key) for key in needed - set(weights)),
        "not used": sorted(one.name for key, one in weights.items() if key not in expected),
        "of another shape": [
            f"{one.name} {list(one.shape)}, by the configuration {list(expected[key])}"
            for key, one in sorted(weights.items())
            if key in expected and one.shape != expected[key]
        ],
    }
    told = [f"{what}: {_few(names)}" for what, names in faults.items() if names]
    if told:
        raise InputError(
            f"the checkpoint in {folder} does not fit its configuration ({'; '.join(told)}): the "
            "weights and config.json must come from one model"
        )


def _few(names: Sequence[str], n: int = 5) -> str:
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more


def take_weights(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Fill a module if the weights are its own by name and shape; whether they were."""
    ours = module.state_dict()
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in state.items()}:
        return False
    module.load_state_dict(state)
    return True
