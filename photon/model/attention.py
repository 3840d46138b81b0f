"""Attention over packed rows: which query rows see which key rows, and the kernels that do it.

Shape suffixes: R packed query rows, M packed key rows, N query heads, K key-value heads, H
head size.
"""

from __future__ import annotations

import inspect
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
    places: Tensor  # (g, Lk) place of each cell among the keys of all segments, laid end to end
    keys: Tensor  # (g, Lk) packed key row of each cell
    mask: Tensor | None  # (g, 1, Lq, Lk) true where a query may look
    causal: bool  # plain lower-triangular mask instead of `mask`


class AttentionPlan:
    """Which packed rows attend to which, computed once a pass and used by every layer of it.

    Segment g holds the next `query_lengths[g]` query rows. Its keys are `key_rows[g]` (on the CPU):
    rows of the key matrix, whose last `query_lengths[g]` entries are the queries' own rows when
    `causal`, so that the mask is aligned to the bottom right (a question sees what it reads, then
    itself). All row numbers are made on the CPU and then sent to `device`.

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
        self.queries = Segments(query_lengths)
        self.causal = causal
        self.backend = backend
        self.device = device
        self.keys = self.queries
        index = None
        if key_rows is not None:
            index = torch.cat([torch.arange(0), *key_rows])
            self.keys = Segments([len(rows) for rows in key_rows])
        self.key_index = None if index is None else index.to(device)
        if backend == "sdpa":
            groups = self._groups()
            self._inverse = self._inverse_rows(groups)
            self._blocks = [self._block(group, index) for group in groups]
        else:
            self._cumulative = [
                torch.tensor(s.offsets, dtype=torch.int32).to(device)
                for s in (self.queries, self.keys)
            ]

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, gate: Tensor | None = None
    ) -> Tensor:
        """q (R, N, H), k and v (M, K, H) to (R, N, H); softmax(q k^T * scale) v in each segment.

        gate: added to the logits of each key of each segment, laid end to end; exp(gate) is then
        the weight that the key has there: 1 at gate 0, and minus infinity removes it.
        """
        if self.backend == "sdpa":
            return self._attend_sdpa(q, k, v, scale, gate)
        if self.key_index is not None:
            k, v = k[self.key_index], v[self.key_index]
        size = q.shape[-1]
        if gate is not None:
            q, k, v = _gated(q, k, v, scale, gate)
        kernel = _flash if self.backend == "flash" else _varlen
        longest = self.queries.longest, self.keys.longest
        return kernel(q, k, v, *self._cumulative, *longest, scale, self.causal)[..., :size]

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

    def _block(self, group: list[int], key_index: Tensor | None) -> _Block:
        pick = torch.tensor(group)
        n_q, n_k = self.queries.counts[pick], self.keys.counts[pick]
        i = torch.arange(int(n_q.max()))
        j = torch.arange(int(n_k.max()))
        queries = self.queries.starts[pick, None] + torch.minimum(i, n_q[:, None] - 1)
        places = self.keys.starts[pick, None] + torch.minimum(j, n_k[:, None] - 1)
        keys = places if key_index is None else key_index[places]
        causal = self.causal and bool((n_q == n_k).all())
        even = bool((n_k == n_k[0]).all()) and (not self.causal or len(i) == 1)
        mask = None
        if not causal and not even:
            mask = (j < n_k[:, None])[:, None, None, :].expand(-1, 1, len(i), -1)
            if self.causal:
                last = i[None, :] + (n_k - n_q)[:, None]
                mask = mask & (j <= last[..., None])[:, None]
            mask = mask.to(self.device)
        return _Block(*(x.to(self.device) for x in (queries, places, keys)), mask, causal)

    def _inverse_rows(self, groups: list[list[int]]) -> Tensor | None:
        """(R,) cell of the concatenated block outputs that holds each query row; None: identity."""
        where = torch.empty(self.queries.total, dtype=torch.long)
        start = 0
        for group in groups:
            wide = max(self.queries.lengths[g] for g in group)
            for g in group:
                n = self.queries.lengths[g]
                where[self.queries.offsets[g] :][:n] = torch.arange(start, start + n)
                start += wide
        same = start == len(where) and torch.equal(where, torch.arange(start))
        return None if same else where.to(self.device)

    def _attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, gate: Tensor | None
    ) -> Tensor:
        outputs = []
        whole = len(self._blocks) == 1 and self._inverse is None
        for block in self._blocks:
            shape = block.queries.shape
            q_block = q.unflatten(0, shape) if whole else _rows(q, block.queries)
            plain = whole and self.key_index is None
            k_block = k.unflatten(0, block.keys.shape) if plain else _rows(k, block.keys)
            v_block = v.unflatten(0, block.keys.shape) if plain else _rows(v, block.keys)
            if gate is not None:
                gates = _rows(gate, block.places)
                q_block, k_block, v_block = _gated(q_block, k_block, v_block, scale, gates)
            out = _dense(q_block, k_block, v_block, block, scale)
            outputs.append(out[..., : q.shape[-1]].flatten(0, 1))
        if not outputs:
            return torch.empty_like(q)
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return out if self._inverse is None else out.index_select(0, self._inverse)


class SharedPlan:
    """Prefix segments, causal in themselves, and suffixes over what they read and themselves.

    The queries are the prefix rows, then the suffix rows. reads (on the CPU): the key rows that
    each suffix reads beside its own; `before` rows are cached ahead of those that run, and the
    prefix segments, if there are any, run over an empty cache.
    """

    def __init__(
        self,
        prefixes: Sequence[int],
        suffixes: Sequence[int],
        reads: Sequence[Tensor],
        before: int = 0,
        backend: str = "sdpa",
        device: torch.device | str = "cpu",
    ):
        self.n = sum(prefixes)
        assert not (self.n and before), "prefix rows run over an empty cache"
        start = before + self.n
        own = torch.arange(start, start + sum(suffixes)).split(list(suffixes))
        self.seen = [torch.cat(pair) for pair in zip(reads, own, strict=True)]
        self.prefix = AttentionPlan(prefixes, backend=backend, device=device)
        self.suffix = AttentionPlan(suffixes, self.seen, backend=backend, device=device)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, gate: Tensor | None = None
    ) -> Tensor:
        """As `AttentionPlan.attend`; gate: of the suffixes' keys, laid end to end."""
        n = self.n
        read = self.suffix.attend(q[n:], k, v, scale, gate)
        return torch.cat([self.prefix.attend(q[:n], k[:n], v[:n], scale), read]) if n else read


def _gated(
    q: Tensor, k: Tensor, v: Tensor, scale: float, gate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v (..., heads, H) with one more dimension, which adds the gate (...) to the logits.

    Queries hold 1 / scale there, keys the gate: any kernel carries it. Zeros fill up the head,
    whose size the CUDA kernels want to be a multiple of 8.
    """
    fill = 7 - q.shape[-1] % 8
    one = F.pad(torch.full_like(q[..., :1], 1 / scale), (0, fill))
    extra = gate.to(k.dtype)[..., None, None].expand(*k.shape[:-1], 1)
    q, k = torch.cat([q, one], -1), torch.cat([k, F.pad(extra, (0, fill))], -1)
    return q, k, F.pad(v, (0, fill + 1))


def _dense(q: Tensor, k: Tensor, v: Tensor, block: _Block, scale: float) -> Tensor:
    """SDPA over (g, L, heads, H). One query a segment: its heads of a key group are its queries.

    On a CPU in bf16, grouped attention of one query is two to six times slower than that.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    fold = grouped and q.shape[2] == 1
    if fold:
        q = q.squeeze(2).unflatten(1, (k.shape[1], -1))
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=block.mask,
        is_causal=block.causal and not fold,
        scale=scale,
        enable_gqa=grouped and not fold,
    )
    return out.flatten(1, 2)[:, None] if fold else out.transpose(1, 2)


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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: Tensor,
    keys: Tensor,
    longest_q: int,
    longest_k: int,
    scale: float,
    causal: bool,
) -> Tensor:
    """flash-attn's variable-length kernel; its causal mask is bottom-right aligned like ours."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q=queries,
        cu_seqlens_k=keys,
        max_seqlen_q=longest_q,
        max_seqlen_k=longest_k,
        softmax_scale=scale,
        causal=causal,
    )


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: Tensor,
    keys: Tensor,
    longest_q: int,
    longest_k: int,
    scale: float,
    causal: bool,
) -> Tensor:
    """torch's variable-length kernel, which groups heads from 2.12 on: before, they repeat."""
    from torch.nn.attention.varlen import varlen_attn

    options = {"scale": scale, "window_size": (-1, 0) if causal else (-1, -1)}
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            options["enable_gqa"] = True
        else:
            repeat = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    return varlen_attn(q, k, v, queries, keys, longest_q, longest_k, **options)
