"""The layer loop: the modules of a stock Qwen2.5-VL or Qwen3-VL language model over packed rows.

Shape suffixes: R packed rows, N query heads, K key-value heads, H head size, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from photon.model.attention import SharedPlan
from photon.model.cache import KeyValues
from photon.model.encoder import cos_sin, rotate
from photon.model.recompute import recomputed


class DecoderLayers(nn.Module):
    """Runs decoder layers over packed rows; holds no weights but the language model's.

    checkpointing: recompute each layer in the backward pass instead of keeping its activations. A
    selection lies between two layers, so it never runs twice.
    """

    def __init__(self, language_model: nn.Module, checkpointing: bool = False):
        super().__init__()
        self.model = language_model
        self.checkpointing = checkpointing
        config = language_model.config
        check_supported(config)
        # No buffer: a cast of the model to bf16 would round it, and turn far positions wrongly.
        self.frequency = language_model.rotary_emb.inv_freq.detach().float()
        self.rope_scale: float = language_model.rotary_emb.attention_scaling
        self.n_layers: int = config.num_hidden_layers
        self.n_heads: int = config.num_attention_heads
        self.n_kv_heads: int = config.num_key_value_heads
        own_size = getattr(config, "head_dim", None)
        self.head_size: int = own_size or config.hidden_size // self.n_heads
        interleaved = config.model_type.startswith("qwen3_vl")
        self.axes = rotary_axes(config.rope_parameters["mrope_section"], interleaved)
        if len(self.axes) * 2 != self.head_size:
            raise ValueError(
                f"text.rope_parameters.mrope_section={config.rope_parameters['mrope_section']} "
                f"must sum to half the head size ({self.head_size // 2})"
            )

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token ids (R,) to embeddings (R, D)."""
        return self.model.embed_tokens(token_ids)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (3, R) to the cosines and sines (R, H) of M-RoPE.

        Each frequency turns with the position on one of the three axes, see `rotary_axes`.
        """
        half = positions[self.axes].T.float() * self.frequency.to(positions.device)
        cos, sin = cos_sin(torch.cat([half, half], -1), self.model.norm.weight.dtype)
        return cos * self.rope_scale, sin * self.rope_scale

    def run(
        self,
        hidden: Tensor,
        positions: Tensor,
        plan: SharedPlan,
        start: int = 0,
        stop: int | None = None,
        cache: KeyValues | None = None,
        gate: Tensor | None = None,
        deepstack: tuple[Tensor, Sequence[Tensor]] | None = None,
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
        """Layers start..stop-1 over rows (R, D) at positions (3, R).

        With a `cache`, its rows come before these as keys, and these are added to it. gate: of the
        suffixes' keys, see `SharedPlan.attend`. deepstack: rows (n,) and what they receive after
        layers 0, 1, ..., each (n, D) (Qwen3-VL). Returns the hidden rows, and the last layer's
        queries (R, N, H) and keys (R, K, H) without rotary embedding, None where no layer ran.
        """
        rope, scored = self.rope(positions), (None, None)
        on = self.checkpointing and self.training and cache is None
        for i in range(start, self.n_layers if stop is None else stop):
            hidden, *scored = recomputed(self._layer, i, hidden, rope, plan, cache, gate, on=on)
            if deepstack is not None and i < len(deepstack[1]):
                hidden = hidden.index_add(0, deepstack[0], deepstack[1][i].to(hidden.dtype))
        if cache is not None:
            cache.seen = plan.seen
        return hidden, tuple(scored)

    def _layer(
        self,
        i: int,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        plan: SharedPlan,
        cache: KeyValues | None,
        gate: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        layer = self.model.layers[i]
        q, k, v = self._project(layer.self_attn, layer.input_layernorm(hidden))
        q_turned, keys, values = rotate(q, rope), rotate(k, rope), v
        if cache is not None:
            keys, values = cache.append(i, keys, v)
        out = plan.attend(q_turned, keys, values, q.shape[-1] ** -0.5, gate)
        hidden = hidden + layer.self_attn.o_proj(out.flatten(1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return hidden, q, k

    def _project(self, attention: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = attention.q_proj(x).unflatten(-1, (self.n_heads, -1))
        k = attention.k_proj(x).unflatten(-1, (self.n_kv_heads, -1))
        v = attention.v_proj(x).unflatten(-1, (self.n_kv_heads, -1))
        if hasattr(attention, "q_norm"):  # Qwen3-VL
            q, k = attention.q_norm(q), attention.k_norm(k)
        return q, k, v


def check_supported(config) -> None:
    """Raise ValueError where a configuration asks for what these loops do not do."""
    kind = config.rope_parameters["rope_type"]
    if kind in ("dynamic", "longrope"):
        raise ValueError(
            f"text.rope_parameters.rope_type={kind!r}: frequencies that follow the length are not "
            "supported; legal values are default, linear, yarn, llama3"
        )
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise ValueError(
            f"text.layer_types={sorted(kinds)}: every layer must be full_attention; set "
            "text.use_sliding_window=false"
        )


def rotary_axes(sections: Sequence[int], interleaved: bool) -> list[int]:
    """The axis (0 depth, 1 height, 2 width) whose position turns each of the H / 2 frequencies.

    Qwen2.5-VL gives each axis one block of `sections` frequencies (its section 2.1.3); Qwen3-VL
    interleaves them, depth taking what the other two leave, so that each axis has low and high
    ones (its section 2).
    """
    if not interleaved:
        return [axis for axis, size in enumerate(sections) for _ in range(size)]
    axes = [0] * sum(sections)
    for axis in (1, 2):
        for place in range(axis, min(3 * sections[axis], len(axes)), 3):
            axes[place] = axis
    return axes
