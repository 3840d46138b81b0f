"""Pruners between encoder and language model.

Shape suffixes: B items, Q questions, V packed visual tokens of the items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from photon.batch.layout import Tail, check_tail
from photon.packing import Segments
from photon.pruning.base import Keep, PruneContext, Selection
from photon.pruning.encoded import Encoded, Reduction
from photon.pruning.retention import budget_counts


class EncodedPruner(nn.Module):
    """A pruner that acts between encoder and language model, the same for every question.

    Subclasses implement `reduce`; the engine merges, and drops before the first decoder layer. A
    method's own rule for how many tokens stay holds where neither the call nor `keep` has a budget.

    Args:
        keep: share or count of tokens to keep where the call asks for none; None: the method's own.
        options: of the method; attributes under their names, stored in exports.
    """

    layer = None  # before the first layer
    score_rope = False
    blocks: tuple[float, ...] = ()  # encoder blocks whose attention `reduce` reads, see `Encoded`

    def __init__(self, keep: float | int | None, tail: Tail = "union", **options: object):
        super().__init__()
        if check_tail(tail) == "all":
            raise ValueError(
                "pruner.tail='all' drops nothing where all layers lie above the pruner; "
                "legal values are question, union"
            )
        self.options = {"keep": keep, "tail": tail, **options}
        for name, value in self.options.items():
            setattr(self, name, value)

    def reduce(self, encoded: Encoded, counts: Tensor | None) -> Reduction:
        """The `counts` (B,) tokens of each volume that stay; None: the method's own number."""
        raise NotImplementedError

    def select(
        self,
        context: PruneContext,
        keep: Keep = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """The tokens that stay, for all questions of a volume alike.

        Raises ValueError where counts (Q,) differ between the questions of a volume.
        """
        encoded = context.encoded()
        keep = self.keep if keep is None else keep
        if isinstance(keep, Tensor):
            keep = _of_volumes(keep, context.volume_of, encoded.volumes)
        counts = None if keep is None else budget_counts(keep, encoded.volumes)
        if counts is not None:  # an item may have no volume
            counts = torch.minimum(counts, encoded.volumes.counts)
        with torch.no_grad():
            found = self.reduce(encoded, counts)
        parts = found.keep.split(encoded.volumes.lengths)
        kept = torch.cat([parts[v] for v in context.volume_of])
        merge = None if bool(found.keep.all()) else found.merge
        return Selection(kept, context.pairs, merge=merge)


def _of_volumes(counts: Tensor, volume_of: list[int], volumes: Segments) -> Tensor:
    """Counts (Q,) of questions as those of volumes, (B,)."""
    owner = torch.tensor(volume_of, device=counts.device)
    out = counts.new_ones(len(volumes)).index_copy(0, owner, counts)
    if not torch.equal(out[owner], counts):
        raise ValueError("keep: this pruner keeps as many tokens for every question of a volume")
    return out
