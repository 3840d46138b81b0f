"""Hugging Face's decoding loop (beams, logits processors, stopping criteria) over our `Decoding`.

`Decoding` stands in the place of the loop's cache. This is the only file that depends on how that
loop hands a cache on.

Shape suffixes: Q questions, G sequences (questions times beams), P longest prompt.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from photon.batch.batch import VolumeBatch
from photon.model.decoding import Decoding

# The stock loop hands a step's cache to the next by the name it has in the model's output: `cache`
# from Transformers 5.24 on, `past_key_values` before.
_OUTPUTS = {field.name for field in dataclasses.fields(CausalLMOutputWithPast)}
_CACHE = "cache" if "cache" in _OUTPUTS else "past_key_values"


class DecodingCache(Cache):
    """What the stock loop takes for its cache: reordered by beams, never cropped or compiled."""

    is_compileable = False
    is_croppable = False

    def __init__(self, decoding: Decoding):
        super().__init__(layers=[])
        self.decoding = decoding

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.decoding.reorder(beam_idx)


class StockLoop(PreTrainedModel, GenerationMixin):
    """Stock `generate` from prompts that have been run."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"
    _supports_sdpa = True  # our own attention: what the stock class checks does not matter
    _is_stateful = True  # a pruned cache cannot go back, so no assisted decoding

    def __init__(self, config: PreTrainedConfig):
        super().__init__(copy.deepcopy(config))  # the stock class edits it
        self.generation_config = GenerationConfig()

    @torch.no_grad()
    def proceed(self, decoding: Decoding, batch: VolumeBatch, **options: Any) -> Any:
        """Stock `generate` with its own options; ids (G, P + new), or its output object."""
        pad = options.get("pad_token_id", self.generation_config.pad_token_id)
        ids = batch.prompt_ids(0 if pad is None else pad)
        mask = (batch.prompt_ids(-1) >= 0).long()
        loop = GenerationMixin.generate
        return loop(self, input_ids=ids, attention_mask=mask, decoding=decoding, **options)

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


def beam_search(
    decoding: Decoding, batch: VolumeBatch, num_beams: int, end_id: int, max_new_tokens: int
) -> list[list[int]]:
    """Tokens of the best beam of every question, without the end token."""
    loop = StockLoop(decoding.decoder.layers.model.config)
    loop.decoder = decoding.decoder  # where the loop finds its device
    ids = loop.proceed(
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
