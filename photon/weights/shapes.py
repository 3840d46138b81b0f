"""Ranges of fields of the stock configurations: `model.text`, `model.vision`, config.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from photon.annotations import Count, Fraction, NonNegative, Positive, Whole


class Rope(TypedDict, total=False):
    """Fields of `rope_parameters` that have a range."""

    rope_type: str
    rope_theta: Positive
    mrope_section: Sequence[Whole]


class TextShape(TypedDict, total=False):
    """Fields of the stock text configuration that have a range; it looks at the others itself."""

    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    intermediate_size: Count
    vocab_size: Count
    max_position_embeddings: Count
    tie_word_embeddings: bool
    rms_norm_eps: Positive
    initializer_range: NonNegative
    attention_dropout: Fraction
    rope_parameters: Rope


class VisionShape(TypedDict, total=False):
    """Fields of the stock vision configuration that have a range."""

    hidden_size: Count
    num_heads: Count
    depth: Count
    intermediate_size: Count
    out_hidden_size: Count
    patch_size: Count
    temporal_patch_size: Count
    spatial_merge_size: Count
    in_channels: Count
    window_size: Count
    tokens_per_second: Positive
    num_position_embeddings: Count
    fullatt_block_indexes: Sequence[Whole]
    deepstack_visual_indexes: Sequence[Whole]
    initializer_range: NonNegative
