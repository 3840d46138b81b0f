"""The 3D vision encoder (Eq. 1): cubic patches, the stock ViT blocks, an in-plane merger.

Shape suffixes: B volumes, P patches, V visual tokens (P / merge^2), N heads, H head size, C width.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photon.batch.patches import Grid, patch_coordinates, table_corners, window_order
from photon.model.attention import AttentionPlan
from photon.model.recompute import recomputed
from photon.model.taps import attention_received, noted_blocks, of_tokens, token_keys


@dataclass(frozen=True)
class VisualFeatures:
    """What the encoder gives the decoder: tokens over each grid's depth, height and width.

    deepstack: what Qwen3-VL adds to the visual rows after each of the first decoder layers (its
    section 2, after DeepStack); none for Qwen2.5-VL.
    """

    tokens: Tensor  # (V, D)
    deepstack: tuple[Tensor, ...] = ()  # (V, D) for decoder layers 0, 1, ...
    received: Mapping[float, Tensor] = field(default_factory=dict)  # see `pruning.encoded.Encoded`
    keys: Tensor | None = None

    def take(self, tokens: Tensor) -> VisualFeatures:
        """Those of some tokens (n,) alone."""
        return VisualFeatures(
            self.tokens[tokens],
            tuple(features[tokens] for features in self.deepstack),
            {block: received[tokens] for block, received in self.received.items()},
            None if self.keys is None else self.keys[tokens],
        )


@dataclass(frozen=True)
class _Plan:
    """What depends on the grids alone."""

    order: Tensor  # (P,) patch rows, so that each attention window lies together
    restore: Tensor  # (V,) the inverse, in tokens
    windows: AttentionPlan | None
    slabs: AttentionPlan
    angles: Tensor  # (P, H) of the 2D rotary embedding
    corners: Tensor | None  # (P, 4) rows of the learned position table and their weights
    weights: Tensor | None


class VolumeEncoder(nn.Module):
    """Runs a stock Qwen2.5-VL or Qwen3-VL vision tower over packed patch rows of many volumes.

    The tower's modules and weights are used as they are; the loop is ours because the stock one
    calls attention once a segment in Python and embeds patches with a Conv3d that is several times
    slower than the same product as a linear map (docs/decisions.md). As in the stock towers, no
    block mixes depth: full-attention blocks see one depth slab. The towers differ in what their
    configurations say: Qwen2.5-VL has window attention in most blocks; Qwen3-VL has none, but a
    learned position table and deepstack features.

    checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(self, visual: nn.Module, backend: str = "sdpa", checkpointing: bool = False):
        super().__init__()
        self.visual = visual
        self.backend = backend
        self.checkpointing = checkpointing
        config = visual.config
        self.merge: int = config.spatial_merge_size
        self.heads: int = config.num_heads
        self.windowed: set[int] = set()
        if hasattr(config, "window_size"):
            self.window = config.window_size // config.patch_size // self.merge
            self.windowed = set(range(config.depth)) - set(config.fullatt_block_indexes)
        self.deepstack: list[int] = list(getattr(config, "deepstack_visual_indexes", ()))
        self._plans: dict[tuple, _Plan] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.patch_embed.proj.weight.dtype

    def embed_patches(self, patches: Tensor) -> Tensor:
        """(P, voxels) to (P, C): the 3D patch embedding, kernel = stride (Eq. 1).

        Without bias in Qwen2.5-VL; Qwen3-VL has one. The product is in float32 at least, whatever
        the model and autocast compute in: voxels of [0, 1] in bfloat16 are steps of 4 to 8 HU.
        """
        proj, device = self.visual.patch_embed.proj, patches.device.type
        dtype = torch.promote_types(self.dtype, torch.float32)
        autocast = torch.is_autocast_enabled(device)
        bias = None if proj.bias is None else proj.bias.to(dtype)
        with torch.autocast(device, enabled=False):
            hidden = F.linear(patches.to(dtype), proj.weight.flatten(1).to(dtype), bias)
        return hidden.to(torch.get_autocast_dtype(device) if autocast else self.dtype)

    def forward(
        self,
        patches: Tensor,
        grids: list[Grid],
        present: Tensor | None = None,
        blocks: Collection[float] = (),
    ) -> VisualFeatures:
        """Packed patch rows (P, voxels) of volumes with the given patch grids to their features.

        present: true at the tokens of the grids that have rows, None: all. The windows and slabs of
        the others stay what they are; they only see less. blocks: shares of the depth at which
        attention is noted for a pruner before the language model.
        """
        if present is None or bool(present.all()):
            plan = self._plan(tuple(grids), patches.device)
        else:
            plan = self._make_plan(tuple(grids), patches.device, present)
        hidden = self.embed_patches(patches)
        if plan.corners is not None:
            table = self.visual.pos_embed(plan.corners) * plan.weights[..., None]
            hidden = hidden + table.sum(1).to(hidden.dtype)
        hidden = hidden[plan.order]
        rope = cos_sin(plan.angles, self.dtype)
        deepstack, received, keys = [], {}, None
        noted = noted_blocks(blocks, len(self.visual.blocks), self.windowed)
        for i, block in enumerate(self.visual.blocks):
            attention = plan.windows if i in self.windowed else plan.slabs
            if i in noted.values():
                found, keys = self._note(block, hidden, rope, plan)
                received |= {share: found for share, at in noted.items() if at == i}
            hidden = recomputed(
                self._block, block, hidden, rope, attention, on=self.checkpointing and self.training
            )
            if i in self.deepstack:
                merger = self.visual.deepstack_merger_list[self.deepstack.index(i)]
                deepstack.append(merger(hidden)[plan.restore])
        tokens = self.visual.merger(hidden)[plan.restore]
        return VisualFeatures(tokens, tuple(deepstack), received, keys)

    @torch.no_grad()
    def _note(self, block: nn.Module, hidden: Tensor, rope: tuple, plan: _Plan) -> tuple:
        """Attention that the tokens receive in a block, (V,), and their keys there (V, H)."""
        qkv = block.attn.qkv(block.norm1(hidden)).unflatten(-1, (3, self.heads, -1))
        q, k = (rotate(x, rope) for x in qkv.unbind(1)[:2])
        received = attention_received(q, k, plan.slabs.queries)
        found = of_tokens(received, self.merge), token_keys(k, self.merge)
        return tuple(x[plan.restore] for x in found)

    def _block(self, block: nn.Module, hidden: Tensor, rope: tuple, plan: AttentionPlan) -> Tensor:
        hidden = hidden + self._attention(block.attn, block.norm1(hidden), rope, plan)
        return hidden + block.mlp(block.norm2(hidden))

    def _attention(self, module: nn.Module, x: Tensor, rope: tuple, plan: AttentionPlan) -> Tensor:
        qkv = module.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.unbind(1)
        q, k = rotate(q, rope), rotate(k, rope)
        out = plan.attend(q, k, v, scale=q.shape[-1] ** -0.5)
        return module.proj(out.flatten(1))

    def _plan(self, grids: tuple[Grid, ...], device: torch.device) -> _Plan:
        key = (grids, device)
        if key not in self._plans:
            if len(self._plans) > 32:
                self._plans.clear()
            self._plans[key] = self._make_plan(grids, device)
        return self._plans[key]

    def _make_plan(
        self, grids: tuple[Grid, ...], device: torch.device, present: Tensor | None = None
    ) -> _Plan:
        orders, windows, slabs, places = [], [], [], []
        start = 0
        for grid in grids:
            slabs += [grid[1] * grid[2]] * grid[0]
            rows = grid[0] * grid[1] * grid[2]
            order = torch.arange(rows)
            if self.windowed:
                order, lengths = window_order(grid, self.merge, self.window)
                windows += lengths
            orders.append(order + start)
            places.append(patch_coordinates(grid, self.merge)[order])
            start += rows
        order, places = torch.cat(orders), torch.cat(places)
        corners, weights = self._corners(grids)
        if present is not None:
            runs = present.repeat_interleave(self.merge**2)
            windows = _shortened(windows, runs[order]) if windows else windows
            slabs = _shortened(slabs, runs)
            places, order = places[runs[order]], (runs.cumsum(0) - 1)[order[runs[order]]]
            if corners is not None:
                corners, weights = corners[runs], weights[runs]
        restore = torch.argsort(order[:: self.merge**2])
        places = places.to(device)
        size = self.visual.config.hidden_size // self.heads
        # Half of the head rotates with the height, half with the width (stock 2D RoPE).
        frequency = 1.0 / 10000.0 ** (torch.arange(0, size // 2, 2, device=device) / (size // 2))
        angles = (places[:, :, None].float() * frequency).flatten(1)
        return _Plan(
            order.to(device),
            restore.to(device),
            AttentionPlan(windows, causal=False, backend=self.backend, device=device)
            if windows
            else None,
            AttentionPlan(slabs, causal=False, backend=self.backend, device=device),
            torch.cat([angles, angles], -1),
            None if corners is None else corners.to(device),
            None if weights is None else weights.to(device),
        )

    def _corners(self, grids: tuple[Grid, ...]) -> tuple[Tensor | None, Tensor | None]:
        """(P, 4) rows of the learned position table and their weights, where there is one."""
        if not hasattr(self.visual, "pos_embed"):
            return None, None
        side = math.isqrt(self.visual.config.num_position_embeddings)
        found = [table_corners(grid, self.merge, side) for grid in grids]
        corners, weights = zip(*found, strict=True)
        return torch.cat(corners), torch.cat(weights)


def _shortened(lengths: list[int], runs: Tensor) -> list[int]:
    """Rows that run in each of the consecutive segments; segments without any are left out."""
    return [n for n in (int(part.sum()) for part in runs.split(lengths)) if n]


def cos_sin(angles: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of float32 angles, in float32 or, for a float64 model, in float64."""
    dtype = torch.promote_types(dtype, torch.float32)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of (R, N, H) rows by (R, H) cosines and sines (half-split layout)."""
    cos, sin = rope
    first, second = x.chunk(2, -1)
    turned = torch.cat([-second, first], -1)
    return (x * cos[:, None] + turned * sin[:, None]).to(x.dtype)
