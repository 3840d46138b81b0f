"""Greedy decoding of any mix of volumes and questions over their shared prefixes.

A decoding step is a suffix of length one against the same caches as the prompt's pass.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from photon.model.attention import AttentionPlan
from photon.model.cache import KeyValues
from photon.model.decoder import Trunk
from photon.model.photon import PhotonModel, Stage
from photon.pruning.base import Keep, Pruner, Selection, selection_layer
from photon.questions.batch import VolumeBatch


@dataclass(frozen=True)
class Generation:
    """Answers to the Q questions of a batch, in order, and what was kept to answer them."""

    tokens: list[list[int]]  # without the end token
    visual_tokens: list[int]
    selection: Selection | None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def kept_tokens(self) -> list[int]:
        """(Q) visual tokens that each question kept; all of them with pruning off."""
        return self.visual_tokens if self.selection is None else self.selection.counts.tolist()

    @property
    def keep_masks(self) -> list[Tensor]:
        """(Q) boolean masks over each question's visual tokens, in grid order."""
        if self.selection is None:
            return [torch.ones(n, dtype=torch.bool) for n in self.visual_tokens]
        return list(self.selection.keep.cpu().split(self.visual_tokens))


class _Clock:
    """Seconds of each stage, synchronised with the device."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.last = device, {}, time.perf_counter()

    def mark(self, stage: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


@dataclass(frozen=True)
class Reading:
    """A batch after the layers up to l: any number of selections can answer from it.

    What it holds does not depend on what is selected, so that several pruners, budgets and the
    unpruned model on the same volumes share the encoder and these layers.
    """

    batch: VolumeBatch
    trunk: Trunk
    cache: KeyValues
    seconds: dict[str, float]


@torch.no_grad()
def read(model: PhotonModel, batch: VolumeBatch, cut: int | None = None) -> Reading:
    """Encode the volumes and run the first `cut` layers, whose last one is scored; None: all."""
    clock = _Clock(batch.suffix_ids.device)
    visual = model.encode(batch)
    clock.mark("encoder")
    cache = KeyValues()
    trunk = model.trunk(batch, visual, cut, cut, cache)
    clock.mark("layers up to l")
    return Reading(batch, trunk, cache, clock.seconds)


@torch.no_grad()
def answer(
    model: PhotonModel,
    reading: Reading,
    end_id: int,
    max_new_tokens: int = 32,
    stage: Stage = "hard",
    keep: Keep = None,
    pruner: Pruner | None = None,
    generator: torch.Generator | None = None,
) -> Generation:
    """Decode the answers to a batch that was read; arguments as in `generate`."""
    batch, trunk, low = reading.batch, reading.trunk, reading.cache.fork()
    clock = _Clock(batch.suffix_ids.device)
    last = batch.suffixes.starts + batch.suffixes.counts - 1
    selection, high = None, None
    if stage == "off":
        hidden = model.decoder.rest(trunk, low.n_layers, low).suffix[last]
    else:
        selection = model.select(trunk, keep, pruner, generator)
        clock.mark("selection")
        high = KeyValues()
        rows, place = model.decoder.tail(trunk, selection, start=low.n_layers, cache=high)
        hidden = rows[place[last]]
        if model.kv == "compact":
            low.rows = _compact(trunk, selection)
    clock.mark("layers above l")
    position = batch.suffix_positions[:, last] + 1
    answers = _decode(model, low, high, hidden, position, end_id, max_new_tokens)
    clock.mark("decoding")
    lengths = batch.visual_lengths
    visual = [lengths[v] for v in batch.volume_of]
    return Generation(answers, visual, selection, {**reading.seconds, **clock.seconds})


def generate(
    model: PhotonModel,
    batch: VolumeBatch,
    end_id: int,
    max_new_tokens: int = 32,
    stage: Stage = "hard",
    keep: Keep = None,
    pruner: Pruner | None = None,
    generator: torch.Generator | None = None,
) -> Generation:
    """Decode the most likely answer of every question of a batch without answers.

    keep: a budget in place of the learned threshold (share, count or counts (Q,)). pruner: another
    pruner than the model's own. stage `off` keeps every visual token. Exact: neither the other
    questions of a batch nor the caches change an answer beyond rounding.
    """
    pruner = model.pruner if pruner is None else pruner
    stage = "off" if pruner is None else stage
    cut = None if stage == "off" else selection_layer(model.n_layers, pruner.layer)
    reading = read(model, batch, cut)
    return answer(model, reading, end_id, max_new_tokens, stage, keep, pruner, generator)


def _compact(trunk: Trunk, selection: Selection) -> list[Tensor]:
    """Rows of the layers up to l without the dropped visual tokens."""
    alive = torch.ones_like(trunk.is_visual)
    alive[trunk.is_visual] = selection.keep
    lengths = trunk.seen.sum(alive.long()).tolist()
    return list(trunk.rows[alive].split(lengths))


def _decode(
    model: PhotonModel,
    low: KeyValues,
    high: KeyValues | None,
    hidden: Tensor,
    position: Tensor,
    end_id: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """Greedy steps from the last prompt rows (Q, D); questions leave when they end."""
    answers: list[list[int]] = [[] for _ in range(len(hidden))]
    active = list(range(len(hidden)))
    for step in range(max_new_tokens):
        token = model.logits(hidden).argmax(-1)
        going = (token != end_id).tolist()
        for i, value in zip(active, token.tolist(), strict=True):
            if value != end_id:
                answers[i].append(value)
        active = [i for i, more in zip(active, going, strict=True) if more]
        if not active or step == max_new_tokens - 1:
            break
        alive = torch.tensor(going, device=token.device)
        token, position = token[alive], position[:, alive]
        hidden = model.decoder.layers.embed(token)
        hidden = _step(model, low, hidden, position, active, 0)
        if high is not None:
            hidden = _step(model, high, hidden, position, active, low.n_layers)
        position = position + 1
    return answers


def _step(
    model: PhotonModel,
    cache: KeyValues,
    hidden: Tensor,
    position: Tensor,
    active: list[int],
    start: int,
) -> Tensor:
    """One new row for every active question through the layers that `cache` covers."""
    new = torch.arange(cache.total, cache.total + len(active), device=hidden.device)
    for i, row in zip(active, new.split(1), strict=True):
        cache.rows[i] = torch.cat([cache.rows[i], row])
    plan = AttentionPlan(
        [1] * len(active),
        [cache.rows[i] for i in active],
        backend=model.attention,
        device=hidden.device,
    )
    stop = start + cache.n_layers
    return model.decoder.layers.run(hidden, position, plan, start, stop, cache)[0]
