"""Attention over packed rows: which query rows see which key rows, and the kernels that do it.

Shape suffixes: R packed query rows, M packed key rows, N query heads, K key-value heads, H
head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from photon.packing import Segments

# A block of padded segments may waste this share of its cells before a further block is opened.
MAX_WASTE = 0.2


@dataclass(frozen=True)
class _Block:
    """Segments of similar length, padded together for one call of the dense kernel."""

    queries: Tensor  # (g, Lq) packed query row of each cell
    valid: Tensor  # (g, Lq) false for the cells past a segment's end
    keys: Tensor  # (g, Lk) packed key row of each cell
    mask: Tensor | None  # (g, 1, Lq, Lk) true where a query may look
    causal: bool  # plain lower-triangular mask instead of `mask`


class AttentionPlan:
    """Which packed rows attend to which, computed once a pass and used by every layer of it.

    Segment g holds the next `query_lengths[g]` query rows. Its keys are `key_rows[g]`: rows of the
    key matrix, whose last `query_lengths[g]` entries are the queries' own rows when `causal`, so
    that the mask is aligned to the bottom right (a question sees the whole prefix, then itself).

    Backends: `sdpa` runs everywhere; `flash` (flash-attn) and `varlen` (torch.nn.attention.varlen)
    need CUDA. The dense kernel has no variable length: rows are laid into padded blocks of similar
    lengths inside the call only.
    """

    def __init__(
        self,
        query_lengths: Sequence[int],
        key_rows: Sequence[Tensor] | None = None,
        causal: bool = True,
        backend: str = "sdpa",
        device: torch.device | str = "cpu",
    ):
        self.queries = Segments(query_lengths, device)
        self.causal = causal
        self.backend = backend
        if key_rows is None:
            self.key_index = None
            self.keys = self.queries
        else:
            self.key_index = torch.cat(list(key_rows)).to(device)
            self.keys = Segments([len(rows) for rows in key_rows], device)
        if backend == "sdpa":
            self._blocks = [self._block(group) for group in self._groups()]
            self._inverse = self._inverse_rows()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """q (R, N, H), k and v (M, K, H) to (R, N, H); softmax(q k^T * scale) v in each segment."""
        if self.backend == "sdpa":
            return self._attend_sdpa(q, k, v, scale)
        if self.key_index is not None:
            k, v = k[self.key_index], v[self.key_index]
        kernel = _flash if self.backend == "flash" else _varlen
        return kernel(q, k, v, self.queries, self.keys, scale, self.causal)

    def _groups(self) -> list[list[int]]:
        """Segments sorted by length and cut where padding would waste more than `MAX_WASTE`."""
        size = list(zip(self.keys.lengths, self.queries.lengths, strict=True))
        order = sorted((g for g in range(len(size)) if size[g][1] > 0), key=lambda g: size[g])
        groups: list[list[int]] = []
        used = widest = 0
        for g in order:
            n_keys, n_queries = size[g]
            widest_now = max(widest, n_queries)
            cells = widest_now * n_keys * (len(groups[-1]) + 1) if groups else 0
            if groups and used + n_keys * n_queries >= (1 - MAX_WASTE) * cells:
                groups[-1].append(g)
                used, widest = used + n_keys * n_queries, widest_now
            else:
                groups.append([g])
                used, widest = n_keys * n_queries, n_queries
        return groups

    def _block(self, group: list[int]) -> _Block:
        pick = torch.tensor(group, device=self.queries.device)
        n_q, n_k = self.queries.counts[pick], self.keys.counts[pick]
        i = torch.arange(int(n_q.max()), device=pick.device)
        j = torch.arange(int(n_k.max()), device=pick.device)
        queries = self.queries.starts[pick, None] + torch.minimum(i, n_q[:, None] - 1)
        valid = i < n_q[:, None]
        keys = self.keys.starts[pick, None] + torch.minimum(j, n_k[:, None] - 1)
        if self.key_index is not None:
            keys = self.key_index[keys]
        if self.causal and bool((n_q == n_k).all()):
            return _Block(queries, valid, keys, None, True)
        if bool((n_k == n_k[0]).all()) and (not self.causal or int(n_q.max()) == 1):
            return _Block(queries, valid, keys, None, False)
        mask = (j < n_k[:, None])[:, None, None, :]
        if self.causal:
            last = i[None, :] + (n_k - n_q)[:, None]
            mask = mask & (j <= last[..., None])[:, None]
        else:
            mask = mask.expand(-1, 1, len(i), -1)
        return _Block(queries, valid, keys, mask, False)

    def _inverse_rows(self) -> Tensor | None:
        """(R,) cell of the concatenated block outputs that holds each query row; None: identity."""
        where = torch.empty(self.queries.total, dtype=torch.long, device=self.queries.device)
        start = 0
        for block in self._blocks:
            cells = torch.arange(block.queries.numel(), device=where.device) + start
            where[block.queries[block.valid]] = cells[block.valid.flatten()]
            start += block.queries.numel()
        if torch.equal(where, torch.arange(len(where), device=where.device)):
            return None
        return where

    def _attend_sdpa(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        outputs = []
        whole = len(self._blocks) == 1 and self._inverse is None
        for block in self._blocks:
            shape = block.queries.shape
            q_block = q.unflatten(0, shape) if whole else _rows(q, block.queries)
            plain = whole and self.key_index is None
            k_block = k.unflatten(0, block.keys.shape) if plain else _rows(k, block.keys)
            v_block = v.unflatten(0, block.keys.shape) if plain else _rows(v, block.keys)
            out = F.scaled_dot_product_attention(
                q_block.transpose(1, 2),
                k_block.transpose(1, 2),
                v_block.transpose(1, 2),
                attn_mask=block.mask,
                is_causal=block.causal,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            outputs.append(out.transpose(1, 2).flatten(0, 1))
        if not outputs:
            return torch.empty_like(q)
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return out if self._inverse is None else out.index_select(0, self._inverse)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x[index] for a two-dimensional index; the backward pass of index_select is the faster one."""
    return x.index_select(0, index.flatten()).unflatten(0, index.shape)


def check_backend(name: str) -> None:
    """Raise ValueError when an attention backend does not exist or is not installed here."""
    if name == "sdpa":
        return
    if name == "flash":
        try:
            import flash_attn  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "model.attention=flash needs flash-attn, which is not installed: "
                "pip install -r requirements-gpu.txt, or set model.attention=sdpa"
            ) from error
    elif name == "varlen":
        try:
            from torch.nn.attention.varlen import varlen_attn  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "model.attention=varlen needs torch.nn.attention.varlen (torch >= 2.11): "
                "upgrade torch, or set model.attention=sdpa"
            ) from error
    else:
        raise ValueError(f"model.attention={name!r}: legal values are sdpa, flash, varlen")
    if not torch.cuda.is_available():
        raise ValueError(f"model.attention={name} needs a CUDA device: set model.attention=sdpa")


def _flash(
    q: Tensor, k: Tensor, v: Tensor, queries: Segments, keys: Segments, scale: float, causal: bool
) -> Tensor:
    """flash-attn's variable-length kernel; its causal mask is bottom-right aligned like ours."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q=_cumulative(queries),
        cu_seqlens_k=_cumulative(keys),
        max_seqlen_q=queries.longest,
        max_seqlen_k=keys.longest,
        softmax_scale=scale,
        causal=causal,
    )


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, queries: Segments, keys: Segments, scale: float, causal: bool
) -> Tensor:
    """torch's variable-length kernel; key-value heads are repeated (2.11 cannot group)."""
    from torch.nn.attention.varlen import varlen_attn

    repeat = q.shape[1] // k.shape[1]
    return varlen_attn(
        q,
        k.repeat_interleave(repeat, 1),
        v.repeat_interleave(repeat, 1),
        _cumulative(queries),
        _cumulative(keys),
        queries.longest,
        keys.longest,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
    )


def _cumulative(segments: Segments) -> Tensor:
    return torch.tensor(segments.offsets, dtype=torch.int32, device=segments.device)
