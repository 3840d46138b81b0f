"""Hugging Face's interface: `from_pretrained`, `save_pretrained` and stock `generate`.

Shape suffixes: Q questions, G sequences (questions times beams), P longest prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
)

from photon.batch.batch import VolumeBatch
from photon.model.generate import begin, read_for
from photon.model.photon import PhotonModel, Stage
from photon.model.stock_loop import StockLoop
from photon.pruning.base import Keep, Pruner
from photon.weights.backbone import FAMILIES
from photon.weights.checkpoints import load_export, save_export
from photon.weights.keys import EXPORTED

# What the Auto classes hand on beside the user's options.
_HUB = {"config", "trust_remote_code", "adapter_kwargs", "_from_auto"}


# config.json of an export: the stock configuration under another `model_type`.
CONFIGS = {
    EXPORTED + name: type(
        f"Photon{family.config.__name__}", (family.config,), {"model_type": EXPORTED + name}
    )
    for name, family in FAMILIES.items()
}


class PhotonForVolumeQuestions(StockLoop):
    """A `PhotonModel` (`.photon`) that stock Transformers code can load, save and decode with."""

    def __init__(self, photon: PhotonModel):
        if not isinstance(photon, PhotonModel):
            raise ValueError(
                "PhotonForVolumeQuestions wraps a PhotonModel: a configuration alone does not make "
                "one; use from_pretrained(export folder)"
            )
        super().__init__(photon.backbone.config)
        self.photon = photon
        if photon.tokenizer is not None:
            self.generation_config.eos_token_id = photon.end_id
            self.generation_config.pad_token_id = photon.tokenizer.pad_token_id
        self.train(photon.training)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, revision: str | None = None, **options: Any
    ) -> PhotonForVolumeQuestions:
        """Load an export from a local folder, every key accounted for; ready to answer.

        options: those of `load_export` (attention, dtype, device). Raises InputError when anything
        is missing or damaged, and ValueError for other options.
        """
        options = {key: value for key, value in options.items() if key not in _HUB}
        unknown = sorted(set(options) - {"attention", "dtype", "device"})
        if unknown or revision is not None:
            raise ValueError(
                f"{', '.join(unknown) or 'revision'}: an export is a local folder, which is loaded "
                "with attention, dtype and device only"
            )
        return cls(load_export(folder, **options))

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write an export; options are those of `save_export`."""
        save_export(self.photon, folder, **options)

    @torch.no_grad()
    def generate(
        self,
        batch: VolumeBatch,
        stage: Stage = "hard",
        keep: Keep = None,
        pruner: Pruner | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Any:
        """Stock `generate` for the questions of a batch; stage to generator as in `PhotonModel`.

        options: those of stock `generate` (num_beams, do_sample, streamer, logits_processor,
        max_new_tokens, ...). Returns what it returns: ids (G, P + new), where prompts are padded
        on the left, or its output object. Volumes are read once, whatever the number of beams.
        """
        reading = read_for(self.photon, batch, stage, pruner)
        decoding, _ = begin(self.photon, reading, stage, keep, pruner, generator)
        return self.proceed(decoding, batch, **options)


class _Loader:
    """What the Auto classes hold: one model class for several configurations."""

    from_pretrained = PhotonForVolumeQuestions.from_pretrained
    _from_config = PhotonForVolumeQuestions


for _config in CONFIGS.values():
    AutoModel.register(_config, _Loader)
    AutoModelForImageTextToText.register(_config, _Loader)
