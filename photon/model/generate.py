"""Answers to any mix of volumes and questions, decoded over their shared prefixes."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from photon.batch.batch import VolumeBatch
from photon.model.cache import KeyValues
from photon.model.decoder import Trunk
from photon.model.decoding import Decoding, Sampling, Streamer, decode, likeliest
from photon.model.photon import PhotonModel, Stage
from photon.model.stock_loop import beam_search
from photon.pruning.base import Keep, Pruner, Selection, blocks_of, selection_layer


@dataclass(frozen=True)
class Generation:
    """Answers to the Q questions of a batch, in order, and what was kept to answer them."""

    tokens: list[list[int]]  # without the end token
    present: list[Tensor]  # (Q) true at the tokens of the question's grids that were computed
    selection: Selection | None
    seconds: dict[str, float] = field(default_factory=dict)
    spans: list[tuple[int, list[int]]] = field(default_factory=list)  # see `Arrival`
    cache_bytes: int = 0  # keys and values of the prompts

    @property
    def read_tokens(self) -> list[float]:
        """(Q) visual tokens that each question reads, averaged over the decoder's layers."""
        layers = sum(n for n, _ in self.spans)
        each = zip(*([n * count for count in counts] for n, counts in self.spans), strict=True)
        return [sum(one) / layers for one in each]

    @property
    def visual_tokens(self) -> list[int]:
        """(Q) tokens of each question's grids, those that are left out as air among them."""
        return [len(mask) for mask in self.present]

    @property
    def kept_tokens(self) -> list[int]:
        """(Q) visual tokens that each question kept; all that were computed with pruning off."""
        return [int(mask.sum()) for mask in self.keep_masks]

    @property
    def keep_masks(self) -> list[Tensor]:
        """(Q) boolean masks over each question's visual tokens, in grid order."""
        return self.present if self.selection is None else self.on_grids(self.selection.keep)

    def on_grids(self, pairs: Tensor) -> list[Tensor]:
        """(Q) values (J,) of the pairs over each question's grids, zero where air was left out."""
        parts = pairs.cpu().split([int(mask.sum()) for mask in self.present])
        empty = (torch.zeros(len(mask), dtype=pairs.dtype) for mask in self.present)
        return [
            grid.masked_scatter(mask, part)
            for grid, mask, part in zip(empty, self.present, parts, strict=True)
        ]


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


@dataclass
class Reading:
    """A batch after the layers up to l: any number of selections can answer from it.

    What it holds does not depend on what is selected, so that several pruners, budgets and the
    unpruned model on the same volumes share the encoder and these layers; and with tail `all` or
    nothing dropped, the volumes' rows in the layers above too, once they were run.
    """

    batch: VolumeBatch
    trunk: Trunk
    cache: KeyValues
    seconds: dict[str, float]
    above: KeyValues | None = None  # of all prefix rows, in the layers above l

    @property
    def device(self) -> torch.device:
        return self.batch.suffix_ids.device


@torch.no_grad()
def read(
    model: PhotonModel,
    batch: VolumeBatch,
    cut: int | None = None,
    blocks: Collection[float] = (),
) -> Reading:
    """Encode the volumes and run the first `cut` layers, whose last one is scored; None: all.

    blocks: whose attention pruners before the language model will read.
    """
    clock = _Clock(batch.suffix_ids.device)
    visual = model.encode(batch, blocks)
    clock.mark("encoder")
    cache = KeyValues()
    trunk = model.trunk(batch, visual, cut, cache)
    clock.mark("layers up to l")
    return Reading(batch, trunk, cache, clock.seconds)


def read_for(
    model: PhotonModel, batch: VolumeBatch, stage: Stage = "hard", pruner: Pruner | None = None
) -> Reading:
    """Read a batch for one pruner (None: the model's own): the layers up to where it cuts."""
    pruner = model.pruner if pruner is None else pruner
    off = stage == "off" or pruner is None
    if off:
        return read(model, batch)
    return read(model, batch, selection_layer(model.n_layers, pruner.layer), blocks_of(pruner))


@torch.no_grad()
def read_on(model: PhotonModel, before: Reading, batch: VolumeBatch) -> Reading:
    """Other questions about the items of a reading, whose volumes and prefixes do not run again.

    Above l neither, where `before` has answered with tail `all` or with nothing dropped.
    """
    clock = _Clock(before.device)
    cache = before.cache.head(batch.prefixes.total)
    trunk = model.decoder.follow(before.trunk, batch, cache)
    clock.mark("layers up to l")
    return Reading(batch, trunk, cache, clock.seconds, before.above)


@torch.no_grad()
def begin(
    model: PhotonModel,
    reading: Reading,
    stage: Stage = "hard",
    keep: Keep = None,
    pruner: Pruner | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Decoding, Selection | None]:
    """Select and run the layers above l; arguments as in `generate`. A reading can begin often."""
    clock = _Clock(reading.device)
    return _begin(model, reading, clock, stage, keep, pruner, generator)[:2]


def _begin(
    model: PhotonModel,
    reading: Reading,
    clock: _Clock,
    stage: Stage,
    keep: Keep,
    pruner: Pruner | None,
    generator: torch.Generator | None,
) -> tuple[Decoding, Selection | None, list[tuple[int, Tensor]]]:
    batch, trunk, low = reading.batch, reading.trunk, reading.cache.fork()
    pruner = model.pruner if pruner is None else pruner
    cut, last, whole, caches = low.n_layers, None, None, [low]
    spans = [(model.n_layers, batch.pairs.counts)]
    if stage != "off" and pruner is not None:
        there = model.arrive(trunk, keep, pruner, generator, cut, True, clock.mark)
        trunk, last, pruner, cut = there.trunk, there.selection, there.pruner, there.cut
        whole, spans = there.whole, there.spans
        caches += there.caches
        if model.kv == "compact":
            low.seen = _compact(batch, whole)
    hidden = trunk.suffix
    if cut < model.n_layers:
        shared = trunk is reading.trunk and (last is None or pruner.tail == "all")
        n = batch.prefixes.total
        high = reading.above.head(n) if shared and reading.above else KeyValues()
        hidden = model.decoder.tail(trunk, last, cut, pruner, cache=high)
        if shared:
            reading.above = high.head(n)
        caches.append(high)
    last = batch.suffixes.starts + batch.suffixes.counts - 1
    positions = batch.suffix_positions[:, last] + 1
    decoding = Decoding(model.decoder, model.logits, caches, hidden[last], positions)
    clock.mark("layers above l")
    return decoding, whole, spans


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
    sampling: Sampling | None = None,
    num_beams: int = 1,
    streamer: Streamer | None = None,
    stop_repeats: bool = False,
) -> Generation:
    """Decode the answers to a batch that was read; arguments as in `generate` and `decode`."""
    _check_choice(len(reading.batch.suffixes), sampling, num_beams, streamer)
    batch, clock = reading.batch, _Clock(reading.device)
    begun = _begin(model, reading, clock, stage, keep, pruner, generator)
    decoding, selection, spans = begun
    held = sum(cache.nbytes for cache in decoding.caches)
    if num_beams > 1:
        tokens = beam_search(decoding, batch, num_beams, end_id, max_new_tokens)
    else:
        if streamer is not None:
            streamer.put(batch.prompt_ids(end_id).cpu())
        choose = likeliest if sampling is None else sampling.chooser(batch)
        tokens = decode(decoding, choose, end_id, max_new_tokens, streamer, stop_repeats)
    clock.mark("decoding")
    present = [batch.present[v] for v in batch.volume_of]
    seconds = {**reading.seconds, **clock.seconds}
    read = [(n, counts.tolist()) for n, counts in spans]
    return Generation(tokens, present, selection, seconds, read, held)


def generate(
    model: PhotonModel,
    batch: VolumeBatch,
    end_id: int | None = None,
    max_new_tokens: int = 32,
    stage: Stage = "hard",
    keep: Keep = None,
    pruner: Pruner | None = None,
    generator: torch.Generator | None = None,
    sampling: Sampling | None = None,
    num_beams: int = 1,
    streamer: Streamer | None = None,
) -> Generation:
    """Decode an answer to every question of a batch without answers.

    The most likely token at every step; or drawn by `sampling`; or the best of `num_beams` beams
    (Hugging Face's beam search). streamer: is told of the tokens of a single question as they come.
    end_id: the token that ends an answer; None: the tokenizer's.

    keep: a budget in place of the learned threshold (share, count or counts (Q,)). pruner: another
    pruner than the model's own. stage `off` keeps every visual token. generator: of pruners that
    draw. Exact: neither the other questions of a batch nor the caches change an answer beyond
    rounding; with tail `union` above l, the other questions do (see `lay_out`). Raises ValueError
    where beams meet sampling or a streamer, or a streamer a batch.
    """
    _check_choice(len(batch.suffixes), sampling, num_beams, streamer)
    reading = read_for(model, batch, stage, pruner)
    end_id = model.end_id if end_id is None else end_id
    choice = {"sampling": sampling, "num_beams": num_beams, "streamer": streamer}
    return answer(model, reading, end_id, max_new_tokens, stage, keep, pruner, generator, **choice)


def _check_choice(
    n_questions: int, sampling: Sampling | None, num_beams: int, streamer: Streamer | None
) -> None:
    if num_beams < 1:
        raise ValueError(f"num_beams={num_beams}: legal values are 1 and above")
    if num_beams > 1 and sampling is not None:
        raise ValueError(
            f"num_beams={num_beams} with sampling: a beam's draws would depend on the questions "
            "beside it; choose one (PhotonForVolumeQuestions.generate offers both)"
        )
    if num_beams > 1 and streamer is not None:
        raise ValueError(
            f"num_beams={num_beams} with a streamer: the best beam is known at the end"
        )
    if streamer is not None and n_questions != 1:
        raise ValueError(f"a streamer follows one question, and the batch has {n_questions}")


def _compact(batch: VolumeBatch, selection: Selection) -> list[Tensor]:
    """Rows of the layers up to l that each question sees, without the dropped visual tokens."""
    layout = batch.lay_out(selection.keep.cpu())
    own = torch.arange(batch.suffixes.total).split(batch.suffixes.lengths)
    pairs = zip(layout.reads, own, strict=True)
    return [torch.cat([reads, rows + batch.prefixes.total]) for reads, rows in pairs]
