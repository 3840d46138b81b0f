"""The packed decoder (Eq. 2): all rows through l layers, then each question's surviving rows.

Questions share their volume's prefix in the layers up to l; rows are dropped between two layers;
nothing is padded.

Shape suffixes: B volumes, Q questions, R prefix rows, S suffix rows, L rows that the questions see
(R once a question, plus S), J (question, visual token) pairs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from photon.batch.batch import IGNORE, VolumeBatch
from photon.model.attention import AttentionPlan
from photon.model.cache import KeyValues
from photon.model.encoder import VisualFeatures
from photon.model.layers import DecoderLayers, Deepstack, Scored
from photon.packing import Segments
from photon.pruning.base import LastRow, PruneContext, Pruner, Selection
from photon.pruning.surrogate import DropTokens, GateTokens


@dataclass(frozen=True)
class Trunk:
    """State after the layers that run at full length (all of them with pruning off)."""

    batch: VolumeBatch
    plan: AttentionPlan  # of these rows, for the layers that follow without dropping
    hidden: Tensor  # (R + S, D): prefix rows of all volumes, then suffix rows of all questions
    positions: Tensor  # (3, R + S)
    rows: Tensor  # (L,) rows that each question sees: its volume's prefix, then itself
    seen: Segments  # Q segments of `rows`
    is_visual: Tensor  # (L,) true at visual tokens
    is_suffix: Tensor  # (L,) true at a question's own rows
    deepstack: Deepstack  # features of the visual rows of `hidden`
    scored: Scored | None  # of the selection layer, where one was asked for
    training: bool

    def context(self, score_rope: bool) -> PruneContext:
        """What a pruner may see of the scored layer, with or without rotary embedding."""
        assert self.scored is not None, "no layer was scored"
        return prune_context(self, score_rope)

    @cached_property
    def suffix(self) -> Tensor:
        """(S, D) suffix rows."""
        return self.hidden[self.rows[self.is_suffix]]


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
        score_layer: int | None = None,
        cache: KeyValues | None = None,
    ) -> Trunk:
        """Layers before `stop` over the prefixes of all volumes and the suffixes of all questions.

        The visual tokens fill the visual rows of the prefixes. A prefix is causal in itself; a
        suffix sees its volume's prefix and, causally, itself.
        """
        prefix = self.layers.embed(batch.prefix_ids)
        where = batch.visual.nonzero().squeeze(1)
        prefix = prefix.index_copy(0, where, visual.tokens.to(prefix.dtype))
        deepstack = Deepstack(where, visual.deepstack)
        hidden = torch.cat([prefix, self.layers.embed(batch.suffix_ids)])
        positions = torch.cat([batch.prefix_positions, batch.suffix_positions], 1)
        seen = _seen(batch, hidden.device)
        plan = self._plan(batch, seen)
        if cache is not None:
            cache.extend_rows(seen)
        hidden, scored = self.layers.run(
            hidden, positions, plan, 0, stop, cache, score_layer, deepstack=deepstack
        )
        return Trunk(
            batch=batch,
            plan=plan,
            hidden=hidden,
            positions=positions,
            deepstack=deepstack,
            scored=scored,
            training=self.training,
            **_rows(batch, seen),
        )

    def follow(self, before: Trunk, batch: VolumeBatch, cache: KeyValues) -> Trunk:
        """The trunk of other questions about the prefixes of `before`: only suffixes run.

        cache: the prefixes' rows in the layers that `before` ran; the suffixes' are added to it.
        """
        assert torch.equal(batch.prefix_ids, before.batch.prefix_ids), "another prefix"
        n = batch.prefixes.total
        suffix, device = self.layers.embed(batch.suffix_ids), before.hidden.device
        seen = _seen(batch, device)
        cache.extend_rows(seen)
        plan = AttentionPlan(batch.suffixes.lengths, seen, backend=self.attention, device=device)
        stop = cache.n_layers
        score_layer = None if before.scored is None else stop - 1
        suffix, scored = self.layers.run(
            suffix, batch.suffix_positions, plan, 0, stop, cache, score_layer
        )
        return replace(
            before,
            batch=batch,
            plan=self._plan(batch, seen),
            hidden=torch.cat([before.hidden[:n], suffix]),
            positions=torch.cat([batch.prefix_positions, batch.suffix_positions], 1),
            scored=None if scored is None else before.scored.follow(n, scored),
            **_rows(batch, seen),
        )

    def _plan(self, batch: VolumeBatch, seen: list[Tensor]) -> AttentionPlan:
        """Prefixes causal in themselves, and questions over what they see."""
        own = torch.arange(batch.prefixes.total, device=batch.prefix_ids.device)
        return AttentionPlan(
            [*batch.prefixes.lengths, *batch.suffixes.lengths],
            [*own.split(batch.prefixes.lengths), *seen],
            backend=self.attention,
            device=own.device,
        )

    def rest(self, trunk: Trunk, start: int, cache: KeyValues | None = None) -> Trunk:
        """Layers from `start` on over all rows, prefixes still shared: the unpruned model."""
        hidden, _ = self.layers.run(
            trunk.hidden,
            trunk.positions,
            trunk.plan,
            start,
            cache=cache,
            deepstack=trunk.deepstack,
        )
        return replace(trunk, hidden=hidden)

    def tail(
        self,
        trunk: Trunk,
        selection: Selection,
        start: int,
        weight: Tensor | None = None,
        pruner: Pruner | None = None,
        questions: Tensor | None = None,
        cache: KeyValues | None = None,
        gate: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Layers from `start` on over the rows that survive the selection.

        weight (Q,): with it, the selection's probabilities receive the surrogate gradient of
        `pruner.surrogate` (see `DropTokens`). questions (Q,) boolean: run these only. gate (L,):
        added to every attention logit at a seen row. Returns the
        hidden rows and the place of every suffix row in them, (S,); meaningless for a question that
        does not run.
        """
        alive = torch.ones_like(trunk.is_visual)
        alive[trunk.is_visual] = selection.keep
        if questions is not None:
            alive &= trunk.seen.expand(questions)
        place = alive.long().cumsum(0) - 1
        rows = trunk.rows[alive]
        lengths = Segments(trunk.seen.sum(alive.long()), rows.device)
        surrogate = weight is not None and selection.prob is not None
        if surrogate and pruner.surrogate.direction == "gate":
            gate = self._gate(trunk, selection, weight, pruner)
            hidden = trunk.hidden[rows]
        elif surrogate:
            hidden = DropTokens.apply(
                trunk.hidden,
                selection.prob,
                rows,
                trunk.rows[trunk.is_visual],
                place[trunk.is_visual][selection.keep],
                selection.keep,
                weight,
                selection.pairs,
                pruner.surrogate,
                pruner.monitor,
            )
        else:
            hidden = trunk.hidden[rows]
        gate = None if gate is None else gate[alive]
        deepstack = trunk.deepstack.take(rows)
        hidden = self._above(
            hidden, trunk.positions[:, rows], lengths, start, deepstack, cache, gate
        )
        return hidden, place[trunk.is_suffix]

    def _gate(self, trunk: Trunk, selection: Selection, weight: Tensor, pruner: Pruner) -> Tensor:
        """(L,) zeros, whose gradient at visual rows becomes that of the selection's q."""
        values = GateTokens.apply(
            selection.prob,
            selection.keep,
            weight,
            selection.pairs,
            pruner.surrogate,
            pruner.monitor,
        )
        where = trunk.is_visual.nonzero().squeeze(1)
        return values.new_zeros(len(trunk.rows)).index_copy(0, where, values)

    def tail_soft(
        self, trunk: Trunk, selection: Selection, start: int, trained: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Layers from `start` on over all rows, visual ones scaled by q: the soft warm-up stage.

        So are the deepstack features that they receive above: at q = 0 nothing of a token is left.
        trained (Q,) boolean: the questions whose loss may change q.
        """
        where = trunk.is_visual.nonzero().squeeze(1)
        prob = selection.prob
        prob = torch.where(selection.pairs.expand(trained), prob, prob.detach())
        scale = torch.ones(len(trunk.rows), dtype=trunk.hidden.dtype, device=where.device)
        scale = scale.index_copy(0, where, prob.to(scale.dtype))
        hidden = trunk.hidden[trunk.rows] * scale[:, None]
        deepstack = trunk.deepstack.take(trunk.rows).scaled(scale)
        positions = trunk.positions[:, trunk.rows]
        hidden = self._above(hidden, positions, trunk.seen, start, deepstack)
        return hidden, trunk.is_suffix.nonzero().squeeze(1)

    def _above(
        self,
        hidden: Tensor,
        positions: Tensor,
        lengths: Segments,
        start: int,
        deepstack: Deepstack,
        cache: KeyValues | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        plan = AttentionPlan(lengths.lengths, backend=self.attention, device=hidden.device)
        if cache is not None:
            own = torch.arange(lengths.total, device=hidden.device)
            cache.extend_rows(list(own.split(lengths.lengths)))
        return self.layers.run(
            hidden, positions, plan, start, cache=cache, gate=gate, deepstack=deepstack
        )[0]


def _seen(batch: VolumeBatch, device: torch.device) -> list[Tensor]:
    """(Q) rows that each question sees: its volume's prefix, then itself."""
    n_prefix = batch.prefixes.total
    own = torch.arange(n_prefix + batch.suffixes.total, device=device)
    prefix_rows = own[:n_prefix].split(batch.prefixes.lengths)
    suffix_rows = own[n_prefix:].split(batch.suffixes.lengths)
    pairs = zip(batch.volume_of, suffix_rows, strict=True)
    return [torch.cat([prefix_rows[v], rows]) for v, rows in pairs]


def _rows(batch: VolumeBatch, seen: list[Tensor]) -> dict[str, Tensor | Segments]:
    """The fields of a `Trunk` that tell which rows the questions see."""
    rows = torch.cat(seen)
    visual_row = torch.cat([batch.visual, torch.zeros_like(batch.instruction)])
    return {
        "rows": rows,
        "seen": Segments([len(r) for r in seen], rows.device),
        "is_visual": visual_row[rows],
        "is_suffix": rows >= batch.prefixes.total,
    }


def prune_context(trunk: Trunk, score_rope: bool) -> PruneContext:
    """What the pruner may see: instruction, visual and prompt rows of the scored layer.

    Never answers: the last prompt row is the one that predicts an answer's first token.
    """
    batch, scored = trunk.batch, trunk.scored
    queries = scored.turned_queries if score_rope else scored.queries
    keys = scored.turned_keys if score_rope else scored.keys
    text_rows = batch.instruction.nonzero().squeeze(1) + batch.prefixes.total
    visual_rows = batch.visual.nonzero().squeeze(1)
    lengths = batch.visual_lengths
    device = text_rows.device
    last = batch.prefixes.total + last_prompt_rows(batch)
    prompt = trunk.rows <= trunk.seen.expand(last)
    return PruneContext(
        queries=queries[text_rows],
        keys=keys[text_rows],
        visual_keys=keys[visual_rows],
        text=Segments(batch.suffixes.sum(batch.instruction.long()), device),
        visual=Segments(lengths, device),
        pairs=Segments([lengths[v] for v in batch.volume_of], device),
        volume_of=batch.volume_of,
        training=trunk.training,
        last=LastRow(
            scored.turned_queries[last],
            scored.turned_keys,
            trunk.rows[prompt],
            Segments(trunk.seen.sum(prompt.long()), device),
            trunk.is_visual[prompt],
        ),
    )


def last_prompt_rows(batch: VolumeBatch) -> Tensor:
    """(Q,) suffix row of every question from which its answer's first token is predicted."""
    suffixes = batch.suffixes
    answered = suffixes.pad((batch.targets != IGNORE).long()).cumsum(1) > 0
    before = (~answered & suffixes.valid).sum(1)
    return suffixes.starts + torch.minimum(before, suffixes.counts - 1)
