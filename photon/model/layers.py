"""The layer loop: the modules of a stock Qwen2.5-VL or Qwen3-VL language model over packed rows.

Shape suffixes: R packed rows, N query heads, K key-value heads, H head size, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photon.model.attention import AttentionPlan
from photon.model.cache import KeyValues
from photon.model.encoder import cos_sin, rotate
from photon.model.recompute import recomputed


@dataclass(frozen=True)
class Scored:
    """Queries (R, N, H) and keys (R, K, H) of the selection layer, from which scores are made.

    `turned_` ones carry their rotary embedding.
    """

    queries: Tensor
    keys: Tensor
    turned_queries: Tensor
    turned_keys: Tensor

    def follow(self, n: int, other: Scored) -> Scored:
        """The first n rows of this one, then the rows of another."""
        pairs = ((getattr(self, name), value) for name, value in vars(other).items())
        return Scored(*(torch.cat([ours[:n], theirs]) for ours, theirs in pairs))


@dataclass(frozen=True)
class Deepstack:
    """Features that visual rows receive after each of the first decoder layers (Qwen3-VL)."""

    rows: Tensor  # (J,) the visual rows among those that run, ascending
    features: tuple[Tensor, ...]  # (J, D) for decoder layers 0, 1, ...

    def take(self, rows: Tensor) -> Deepstack:
        """Of `hidden[rows]` (L,), what this is of `hidden`; rows may be left out and repeat."""
        if not self.features:
            return self
        at = torch.searchsorted(self.rows, rows).clamp(max=len(self.rows) - 1)
        mine = self.rows[at] == rows
        features = tuple(part[at[mine]] for part in self.features)
        return Deepstack(mine.nonzero().squeeze(1), features)

    def scaled(self, scale: Tensor) -> Deepstack:
        """With the features of each of the rows (R,) times its scale."""
        by = scale[self.rows, None] if self.features else scale
        return Deepstack(self.rows, tuple(part * by.to(part.dtype) for part in self.features))

    def add(self, layer: int, hidden: Tensor) -> Tensor:
        """Rows (R, D) after a layer, with its features; the same rows where it has none."""
        if layer >= len(self.features):
            return hidden
        return hidden.index_add(0, self.rows, self.features[layer].to(hidden.dtype))


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
        plan: AttentionPlan,
        start: int = 0,
        stop: int | None = None,
        cache: KeyValues | None = None,
        score_layer: int | None = None,
        gate: Tensor | None = None,
        deepstack: Deepstack | None = None,
    ) -> tuple[Tensor, Scored | None]:
        """Layers start..stop-1 over rows (R, D) at positions (3, R), and what `deepstack` adds.

        With a `cache`, the plan's key rows index the cached rows followed by these rows. Returns
        the hidden rows and, where `score_layer` is among the layers, its queries and keys. gate
        (R,): added to every attention logit at these rows as keys (no cache then).
        """
        rope = self.rope(positions)
        scored = None
        on = self.checkpointing and self.training and cache is None
        for i in range(start, self.n_layers if stop is None else stop):
            hidden, seen = recomputed(self._layer, i, hidden, rope, plan, cache, gate, on=on)
            if i == score_layer:
                scored = seen
            if deepstack is not None:
                hidden = deepstack.add(i, hidden)
        return hidden, scored

    def _layer(
        self,
        i: int,
        hidden: Tensor,
        rope: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: KeyValues | None,
        gate: Tensor | None,
    ) -> tuple[Tensor, Scored]:
        layer = self.model.layers[i]
        q, k, v = self._project(layer.self_attn, layer.input_layernorm(hidden))
        q_turned, k_turned = rotate(q, rope), rotate(k, rope)
        keys, values = (k_turned, v) if cache is None else cache.append(i, k_turned, v)
        scale = q.shape[-1] ** -0.5
        if gate is None:
            out = plan.attend(q_turned, keys, values, scale)
        else:
            out = attend_gated(plan, q_turned, keys, values, scale, gate)
        hidden = hidden + layer.self_attn.o_proj(out.flatten(1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return hidden, Scored(q, k, q_turned, k_turned)

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


def attend_gated(
    plan: AttentionPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, gate: Tensor
) -> Tensor:
    """Attention with gate (R,) added to the logits of each key row, through any kernel.

    One more dimension carries it: queries hold 1 / scale there, keys the gate. exp(gate) is then
    the weight that a row has as a key: 1 at gate 0, and minus infinity removes it. Zeros fill up
    the head, whose size the CUDA kernels want to be a multiple of 8.
    """
    size = q.shape[-1]
    fill = 7 - size % 8
    one = F.pad(torch.full_like(q[..., :1], 1 / scale), (0, fill))
    extra = F.pad(gate.to(k.dtype)[:, None, None].expand(-1, k.shape[1], 1), (0, fill))
    wide = F.pad(v, (0, fill + 1))
    out = plan.attend(torch.cat([q, one], -1), torch.cat([k, extra], -1), wide, scale)
    return out[..., :size]
