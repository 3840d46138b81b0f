"""The packed decoder (Eq. 2): all rows through l layers, then what each question keeps.

Every pass is `DecoderLayers.run` over a `Layout`: prefix rows that run once, and suffixes with a
list of rows that they read. Rows are dropped between two layers; nothing is padded.

Shape suffixes: Q questions, R prefix rows and S suffix rows of a batch, V visual tokens, J
(question, visual token) pairs, D width, N query heads, K key-value heads, H head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from photon.batch.batch import VolumeBatch
from photon.batch.layout import Layout
from photon.batch.narrow import narrow
from photon.model.attention import SharedPlan
from photon.model.cache import KeyValues
from photon.model.encoder import VisualFeatures, rotate
from photon.model.layers import DecoderLayers
from photon.packing import Segments
from photon.pruning.base import LastRow, PruneContext, Pruner, Selection
from photon.pruning.encoded import Encoded, Merge
from photon.pruning.surrogate import DropTokens, GateTokens, log_weight


@dataclass(frozen=True)
class Trunk:
    """State after the layers that run at full length (all of them with pruning off)."""

    batch: VolumeBatch
    hidden: Tensor  # (R + S, D)
    visual: VisualFeatures  # what visual rows receive after layers 0, 1, ... among it
    queries: Tensor | None  # (R + S, N, H) of the last layer, without rotary embedding
    keys: Tensor | None  # (R + S, K, H)
    rope: tuple[Tensor, Tensor]  # (R + S, H) cosines and sines
    training: bool

    @property
    def suffix(self) -> Tensor:
        """(S, D) suffix rows."""
        return self.hidden[self.batch.prefixes.total :]

    def context(self, score_rope: bool) -> PruneContext:
        """What a pruner may see of the last layer, with or without rotary embedding."""
        batch = self.batch
        text, visual = batch.instruction_rows + batch.prefixes.total, batch.visual_rows

        def take(x: Tensor | None, rows: Tensor) -> Tensor | None:
            if x is None:
                return None
            x = x.index_select(0, rows)
            return rotate(x, [turn[rows] for turn in self.rope]) if score_rope else x

        return PruneContext(
            queries=take(self.queries, text),
            keys=take(self.keys, text),
            visual_keys=take(self.keys, visual),
            text=batch.texts,
            visual=Segments(batch.visual_lengths, visual.device),
            pairs=batch.pairs,
            volume_of=batch.volume_of,
            training=self.training,
            last=partial(self._last, score_rope),
            encoded=self._encoded,
        )

    def merged(self, merge: Merge | None) -> Trunk:
        """The same with merged visual rows, before the first layer."""
        if merge is None:
            return self
        rows = self.batch.visual_rows
        hidden = self.hidden.index_copy(0, rows, merge(self.hidden[rows]))
        deepstack = tuple(merge(features) for features in self.visual.deepstack)
        return replace(self, hidden=hidden, visual=replace(self.visual, deepstack=deepstack))

    def _encoded(self) -> Encoded:
        """Rows as they are here: before the first layer they are embeddings."""
        batch, visual = self.batch, self.visual
        text = batch.instruction_rows + batch.prefixes.total
        return Encoded(
            tokens=self.hidden[batch.visual_rows],
            volumes=Segments(batch.visual_lengths, text.device),
            places=batch.places.to(text.device),
            received=visual.received,
            keys=visual.keys,
            pixels=self._pixels(),
            text=self.hidden[text],
        )

    def _pixels(self) -> Tensor | None:
        patches, n = self.batch.patches, sum(self.batch.visual_lengths)
        return patches.flatten(0).unflatten(0, (n, -1)) if len(patches) or not n else None

    def _last(self, score_rope: bool) -> LastRow:
        """Each question's last prompt row: never answers."""
        batch = self.batch
        n, last = batch.prefixes.total, batch.last_prompt_rows
        prefix = torch.arange(n).split(batch.prefixes.lengths)
        ends = zip(batch.volume_of, batch.suffixes.offsets, last.tolist(), strict=False)
        seen = [torch.cat([prefix[v], torch.arange(n + a, n + b + 1)]) for v, a, b in ends]
        rows = torch.cat(seen)
        is_visual = torch.cat([batch.on_host, torch.zeros(batch.suffixes.total).bool()])[rows]
        queries, keys = self.queries[n + last], self.keys
        if score_rope:
            queries = rotate(queries, [turn[n + last] for turn in self.rope])
            keys = rotate(keys, self.rope)
        return LastRow(
            queries,
            keys,
            rows.to(last.device),
            Segments([len(one) for one in seen], last.device),
            is_visual.to(last.device),
        )


class PhotonDecoder(nn.Module):
    """Runs the two parts of the decoder around the selection."""

    def __init__(
        self, language_model: nn.Module, attention: str = "sdpa", checkpointing: bool = False
    ):
        super().__init__()
        self.layers = DecoderLayers(language_model, checkpointing)
        self.attention = attention

    def trunk(
        self,
        batch: VolumeBatch,
        visual: VisualFeatures,
        stop: int,
        cache: KeyValues | None = None,
    ) -> Trunk:
        """Layers before `stop` over the prefixes of all volumes and the suffixes of all questions.

        The visual tokens fill the visual rows of the prefixes.
        """
        prefix = self.layers.embed(batch.prefix_ids)
        prefix = prefix.index_copy(0, batch.visual_rows, visual.tokens.to(prefix.dtype))
        hidden = torch.cat([prefix, self.layers.embed(batch.suffix_ids)])
        plan = self.plan(batch.layout, hidden.device)
        deepstack = batch.visual_rows, visual.deepstack
        hidden, scored = self.layers.run(
            hidden, batch.positions, plan, 0, stop, cache, deepstack=deepstack
        )
        rope = self.layers.rope(batch.positions)
        return Trunk(batch, hidden, visual, *scored, rope, self.training)

    def follow(self, before: Trunk, batch: VolumeBatch, cache: KeyValues) -> Trunk:
        """The trunk of other questions about the prefixes of `before`: only suffixes run.

        cache: the prefixes' rows in the layers that `before` ran; the suffixes' are added to it.
        """
        assert torch.equal(batch.prefix_ids, before.batch.prefix_ids), "another prefix"
        n, suffix = batch.prefixes.total, self.layers.embed(batch.suffix_ids)
        plan = self.plan(batch.layout.suffixes_only(), suffix.device, cache)
        run = self.layers.run(suffix, batch.suffix_positions, plan, 0, cache.n_layers, cache)
        parts = zip((before.hidden, before.queries, before.keys), (run[0], *run[1]), strict=True)
        hidden, *scored = (None if new is None else torch.cat([old[:n], new]) for old, new in parts)
        rope = self.layers.rope(batch.positions)
        return Trunk(batch, hidden, before.visual, *scored, rope, self.training)

    def narrow(
        self, trunk: Trunk, selection: Selection, start: int, stop: int, cache: KeyValues | None
    ) -> Trunk:
        """Layers start..stop-1 over what a selection keeps: the trunk of a smaller batch."""
        trunk = trunk.merged(selection.merge)
        batch, rows, tokens = narrow(trunk.batch, selection.keep.cpu())
        visual, hidden = trunk.visual.take(tokens), trunk.hidden[rows]
        plan, deepstack = self.plan(batch.layout, hidden.device), None
        if start < len(visual.deepstack):
            deepstack = batch.visual_rows, visual.deepstack
        hidden, scored = self.layers.run(
            hidden, batch.positions, plan, start, stop, cache, deepstack=deepstack
        )
        if start == stop and trunk.queries is not None:
            scored = trunk.queries[rows], trunk.keys[rows]
        rope = self.layers.rope(batch.positions)
        return Trunk(batch, hidden, visual, *scored, rope, trunk.training)

    def tail(
        self,
        trunk: Trunk,
        selection: Selection | None,
        start: int,
        pruner: Pruner | None = None,
        soft: bool = False,
        weight: Tensor | None = None,
        questions: Sequence[bool] | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Layers from `start` on, (suffix rows, D): what the selection keeps (None: everything).

        pruner: its `tail` says how rows are shared (see `layout.lay_out`). soft: nothing is
        dropped, tokens count as much as their q says. weight (Q,): factor of each question's own
        loss in the total loss; with it, the selection's probabilities receive a gradient, in the
        soft stage their own and in the hard one the surrogate's (Eq. 12-17). questions (Q): run
        these only. cache: receives the keys and values; where it holds those of all prefix rows,
        which tail `all` shares between batches, only suffixes run.
        """
        tail = "all" if selection is None else pruner.tail
        trunk = trunk if selection is None else trunk.merged(selection.merge)
        keep = None if soft or selection is None else selection.keep.cpu()
        layout = trunk.batch.lay_out(keep, tail, questions)
        if cache is not None and cache.total:
            return self.above(trunk, layout.suffixes_only(), start, cache=cache)
        learns = weight is not None and (soft or torch.is_grad_enabled())
        if not learns or selection is None or selection.prob is None:
            return self.above(trunk, layout, start, cache=cache)
        if not soft and getattr(pruner, "surrogate", None) is None:  # learns in the soft stage only
            return self.above(trunk, layout, start, cache=cache)
        pairs, prob = selection.pairs, selection.prob
        if soft:  # a question of weight zero gives the pruner no gradient
            prob = torch.where(pairs.expand(weight > 0), prob, prob.detach())
            if tail == "question":
                return self.above(trunk, layout, start, scale=prob)
            return self.above(trunk, layout, start, gate=log_weight(prob))
        how = weight, pairs, pruner.surrogate, pruner.monitor
        if pruner.surrogate.direction == "gate":
            gate = GateTokens.apply(prob, selection.keep, *how)
            return self.above(trunk, layout, start, gate=gate)
        rows, at, kept = (x.to(prob.device) for x in (layout.rows, layout.at, layout.pairs))
        hidden = DropTokens.apply(trunk.hidden, prob, rows, at, kept, *how)
        return self.above(trunk, layout, start, hidden=hidden)

    def above(
        self,
        trunk: Trunk,
        layout: Layout,
        start: int,
        hidden: Tensor | None = None,
        gate: Tensor | None = None,
        scale: Tensor | None = None,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Layers from `start` on over the rows of a layout; its suffix rows, (n, D).

        hidden: those rows, where they are not those of the trunk. gate (J,): added to the attention
        logits of a pair's visual token where the pair's question reads it. scale (J,): factor of
        the rows of a layout with tail `question` that keeps all pairs, and of their deepstack
        features: at 0 nothing of a token is left.
        """
        device = trunk.hidden.device
        rows, at, tokens = (x.to(device) for x in (layout.rows, layout.at, layout.tokens))
        hidden = trunk.hidden.index_select(0, rows) if hidden is None else hidden
        deepstack = trunk.visual.deepstack
        deepstack = deepstack if start < len(deepstack) else ()
        deepstack = [features[tokens] for features in deepstack]
        if scale is not None:
            by = scale.to(hidden.dtype)[:, None]
            hidden = hidden * torch.ones_like(hidden[:, :1]).index_copy(0, at, by)
            deepstack = [part * scale.to(part.dtype)[:, None] for part in deepstack]
        if gate is not None:
            keys, read = layout.keys.to(device), gate[layout.pairs.to(device)]
            length = sum(map(len, layout.reads)) + sum(layout.suffixes)
            gate = gate.new_zeros(length).index_copy(0, keys, read)
        hidden, _ = self.layers.run(
            hidden,
            trunk.batch.positions[:, rows],
            self.plan(layout, device, cache),
            start,
            cache=cache,
            gate=gate,
            deepstack=(at, deepstack),
        )
        return hidden[layout.total :]

    def plan(
        self, layout: Layout, device: torch.device, cache: KeyValues | None = None
    ) -> SharedPlan:
        """The attention of a layout, over the rows of a cache and its own."""
        before = 0 if cache is None else cache.total
        shape = layout.prefixes, layout.suffixes, layout.reads
        return SharedPlan(*shape, before, self.attention, device)
