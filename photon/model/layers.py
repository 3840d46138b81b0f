"""The layer loop: a stock Qwen2.5-VL language model's modules over packed rows.

Shape suffixes: R packed rows, N query heads, K key-value heads, H head size, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from photon.model.attention import AttentionPlan
from photon.model.cache import KeyValues
from photon.model.encoder import cos_sin, rotate


@dataclass(frozen=True)
class Scored:
    """Queries (R, N, H) and keys (R, K, H) of the selection layer, from which scores are made.

    `turned_` ones carry their rotary embedding.
    """

    queries: Tensor
    keys: Tensor
    turned_queries: Tensor
    turned_keys: Tensor


class DecoderLayers(nn.Module):
    """Runs decoder layers over packed rows; holds no weights but the language model's."""

    def __init__(self, language_model: nn.Module):
        super().__init__()
        self.model = language_model
        config = language_model.config
        self.n_layers: int = config.num_hidden_layers
        self.n_heads: int = config.num_attention_heads
        self.n_kv_heads: int = config.num_key_value_heads
        self.head_size: int = config.hidden_size // self.n_heads
        self.sections: list[int] = list(config.rope_parameters["mrope_section"])
        if sum(self.sections) * 2 != self.head_size:
            raise ValueError(
                f"text.rope_parameters.mrope_section={self.sections} must sum to half the head "
                f"size ({self.head_size // 2})"
            )

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token ids (R,) to embeddings (R, D)."""
        return self.model.embed_tokens(token_ids)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (3, R) to the cosines and sines (R, H) of M-RoPE.

        Frequencies are split between the three axes by `mrope_section` (Qwen2.5-VL, section 2.1.3).
        """
        frequency = self.model.rotary_emb.inv_freq.to(positions.device, torch.float32)
        angles = positions[..., None].float() * frequency
        parts = [part[i] for i, part in enumerate(angles.split(self.sections, -1))]
        half = torch.cat(parts, -1)
        return cos_sin(torch.cat([half, half], -1), self.model.norm.weight.dtype)

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
    ) -> tuple[Tensor, Scored | None]:
        """Layers start..stop-1 over rows (R, D) at positions (3, R).

        With a `cache`, the plan's key rows index the cached rows followed by these rows. Returns
        the hidden rows and, where `score_layer` is among the layers, its queries and keys. gate
        (R,): added to every attention logit at these rows as keys (no cache then).
        """
        rope = self.rope(positions)
        scored = None
        for i in range(start, self.n_layers if stop is None else stop):
            layer = self.model.layers[i]
            x = layer.input_layernorm(hidden)
            q, k, v = self._project(layer.self_attn, x)
            q_turned, k_turned = rotate(q, rope), rotate(k, rope)
            if i == score_layer:
                scored = Scored(q, k, q_turned, k_turned)
            keys, values = (k_turned, v) if cache is None else cache.append(i, k_turned, v)
            scale = q.shape[-1] ** -0.5
            if gate is None:
                out = plan.attend(q_turned, keys, values, scale)
            else:
                out = attend_gated(plan, q_turned, keys, values, scale, gate)
            hidden = hidden + layer.self_attn.o_proj(out.flatten(1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return hidden, scored

    def _project(self, attention: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = attention.q_proj(x).unflatten(-1, (self.n_heads, -1))
        k = attention.k_proj(x).unflatten(-1, (self.n_kv_heads, -1))
        v = attention.v_proj(x).unflatten(-1, (self.n_kv_heads, -1))
        return q, k, v


def attend_gated(
    plan: AttentionPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, gate: Tensor
) -> Tensor:
    """Attention with gate (R,) added to the logits of each key row, through any kernel.

    One more dimension carries it: queries hold 1 / scale there, keys the gate. exp(gate) is then
    the weight that a row has as a key: 1 at gate 0, and minus infinity removes it.
    """
    one = torch.full_like(q[..., :1], 1 / scale)
    extra = gate.to(k.dtype)[:, None, None].expand(-1, k.shape[1], 1)
    padded = torch.cat([v, torch.zeros_like(v[..., :1])], -1)
    out = plan.attend(torch.cat([q, one], -1), torch.cat([k, extra], -1), padded, scale)
    return out[..., :-1]
