"""Hugging Face's interface: `from_pretrained`, `save_pretrained` and stock `generate`.

The stock decoding loop (beams, logits processors, stopping criteria, streamers) runs over our
`Decoding`, which stands in the place of its cache. This is the only file that depends on how that
loop hands a cache on.

Shape suffixes: Q questions, G sequences (questions times beams), P longest prompt.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    Cache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from photon.batch.batch import VolumeBatch
from photon.model.decoding import Decoding
from photon.model.generate import begin, read_for
from photon.model.photon import PhotonModel, Stage
from photon.pruning.base import Keep, Pruner
from photon.weights.backbone import FAMILIES
from photon.weights.checkpoints import load_export, save_export
from photon.weights.keys import EXPORTED

# What the Auto classes hand on beside the user's options.
_HUB = {"config", "trust_remote_code", "adapter_kwargs", "_from_auto"}

# The stock loop hands a step's cache to the next by the name it has in the model's output: `cache`
# from Transformers 5.24 on, `past_key_values` before.
_OUTPUTS = {field.name for field in dataclasses.fields(CausalLMOutputWithPast)}
_CACHE = "cache" if "cache" in _OUTPUTS else "past_key_values"


# config.json of an export: the stock configuration under another `model_type`.
CONFIGS = {
    EXPORTED + name: type(
        f"Photon{family.config.__name__}", (family.config,), {"model_type": EXPORTED + name}
    )
    for name, family in FAMILIES.items()
}


class DecodingCache(Cache):
    """What the stock loop takes for its cache: reordered by beams, never cropped or compiled."""

    is_compileable = False
    is_croppable = False

    def __init__(self, decoding: Decoding):
        super().__init__(layers=[])
        self.decoding = decoding

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.decoding.reorder(beam_idx)


class PhotonForVolumeQuestions(PreTrainedModel, GenerationMixin):
    """A `PhotonModel` (`.photon`) that stock Transformers code can load, save and decode with."""

    config_class = PreTrainedConfig  # one of CONFIGS
    main_input_name = "input_ids"
    _supports_sdpa = True  # our own attention: what the stock class checks does not matter
    _is_stateful = True  # a pruned cache cannot go back, so no assisted decoding

    def __init__(self, photon: PhotonModel):
        if not isinstance(photon, PhotonModel):
            raise ValueError(
                "PhotonForVolumeQuestions wraps a PhotonModel: a configuration alone does not make "
                "one; use from_pretrained(export folder)"
            )
        super().__init__(copy.deepcopy(photon.backbone.config))  # the stock class edits it
        self.photon = photon
        self.generation_config = GenerationConfig()
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

    def proceed(self, decoding: Decoding, batch: VolumeBatch, **options: Any) -> Any:
        """Stock `generate` from prompts that have been run; options and result as in `generate`."""
        pad = options.get("pad_token_id", self.generation_config.pad_token_id)
        ids = batch.prompt_ids(0 if pad is None else pad)
        mask = (batch.prompt_ids(-1) >= 0).long()
        return super().generate(input_ids=ids, attention_mask=mask, decoding=decoding, **options)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoding: Decoding | None = None,
        cache: DecodingCache | None = None,
        past_key_values: DecodingCache | None = None,
        use_cache: bool = True,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """One step of stock `generate`: logits (G, 1, vocabulary) of the next token.

        The first step finds its prompts already run in `decoding`, and spreads them over the
        beams; later ones append the last of input_ids (G, n). attention_mask (G, n) is stock
        `generate`'s own: it tells what is padding in its ids, and there is none in the caches. For
        training see `PhotonModel`.
        """
        if not use_cache:
            raise ValueError("use_cache=False: the prompts' pass is always kept; leave it out")
        cache = past_key_values if cache is None else cache
        if cache is None:
            count = len(decoding.logits)
            index = torch.arange(count).repeat_interleave(len(input_ids) // count)
            decoding.reorder(index)
            cache = DecodingCache(decoding)
        else:
            cache.decoding.step(input_ids[:, -1])
        return CausalLMOutputWithPast(logits=cache.decoding.logits[:, None], **{_CACHE: cache})

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # stock `generate` makes no cache of its own: `forward` brings one


class _Loader:
    """What the Auto classes hold: one model class for several configurations."""

    from_pretrained = PhotonForVolumeQuestions.from_pretrained
    _from_config = PhotonForVolumeQuestions


for _config in CONFIGS.values():
    AutoModel.register(_config, _Loader)
    AutoModelForImageTextToText.register(_config, _Loader)


def beam_search(
    decoding: Decoding, batch: VolumeBatch, num_beams: int, end_id: int, max_new_tokens: int
) -> list[list[int]]:
    """Tokens of the best beam of every question, without the end token."""
    model = PhotonForVolumeQuestions(decoding.model)
    ids = model.proceed(
        decoding,
        batch,
        num_beams=num_beams,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end_id,
        pad_token_id=end_id,
    )
    longest = ids.shape[1] - batch.prompt_ids(end_id).shape[1]
    new = ids[:, ids.shape[1] - longest :].tolist()
    return [row[: row.index(end_id)] if end_id in row else row for row in new]
