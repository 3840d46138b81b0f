"""Hugging Face's interface: `from_pretrained`, `save_pretrained` and stock `generate`.

The stock decoding loop (beams, logits processors, stopping criteria, streamers) runs over our
`Decoding`, which stands in the place of its cache.

Shape suffixes: Q questions, G sequences (questions times beams), P longest prompt.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from photon.model.checkpoints import load_export, save_export
from photon.model.decoding import Decoding
from photon.model.generate import begin, read_for
from photon.model.photon import PhotonModel, Stage
from photon.pruning.base import Keep, Pruner
from photon.questions.batch import VolumeBatch

# What the Auto classes hand on; an export is a local folder without code.
_HUB = {"config", "revision", "trust_remote_code", "adapter_kwargs", "code_revision", "_from_auto"}


class PhotonForVolumeQuestions(PreTrainedModel, GenerationMixin):
    """A `PhotonModel` (`.photon`) that stock Transformers code can load, save and decode with."""

    config_class = PreTrainedConfig
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
        cls, folder: str | Path, attention: str = "sdpa", dtype: Any = None, **hub: Any
    ) -> PhotonForVolumeQuestions:
        """Load an export, every key accounted for; ready to answer.

        dtype: as in `load_export`. Raises InputError when anything is missing or damaged, and
        ValueError for options that it does not have.
        """
        unknown = sorted(set(hub) - _HUB)
        if unknown:
            raise ValueError(f"{unknown}: from_pretrained of an export takes attention and dtype")
        options = {} if dtype is None else {"dtype": dtype}
        return cls(load_export(folder, attention, **options))

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
        return super().generate(input_ids=ids, decoding=decoding, **options)

    def forward(
        self,
        input_ids: Tensor,
        decoding: Decoding | None = None,
        past_key_values: Decoding | None = None,
        use_cache: bool = True,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """One step of stock `generate`: logits (G, 1, vocabulary) of the next token.

        The first step finds its prompts already run in `decoding`, and spreads them over the
        beams; later ones append the last of input_ids (G, n). For training see `PhotonModel`.
        """
        if not use_cache:
            raise ValueError("use_cache=False: the prompts' pass is always kept; leave it out")
        if past_key_values is None:
            count = len(decoding.logits)
            index = torch.arange(count).repeat_interleave(len(input_ids) // count)
            decoding.reorder_cache(index)
        else:
            decoding = past_key_values
            decoding.step(input_ids[:, -1])
        return CausalLMOutputWithPast(logits=decoding.logits[:, None], past_key_values=decoding)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # stock `generate` makes no cache of its own: `forward` brings one


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
