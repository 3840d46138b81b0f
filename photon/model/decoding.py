"""Sequences that grow by one token a step over the caches of their prompts' pass.

Shape suffixes: Q questions, G sequences (the questions, those that still run, or their beams).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from photon.batch.batch import VolumeBatch
from photon.model.attention import SharedPlan
from photon.model.cache import KeyValues
from photon.model.decoder import PhotonDecoder

Choose = Callable[[Tensor, list[int]], Tensor]


class Streamer(Protocol):
    """What is told of tokens as they come, such as `transformers.TextStreamer`."""

    def put(self, value: Tensor) -> None:
        """The prompt's ids (1, n) first, then each token (1,)."""

    def end(self) -> None:
        """No more tokens."""


class Decoding:
    """G sequences after their prompts' pass; a step is a suffix of length one for each.

    caches: of the layers up to l and of those above, or of all layers where they share one. head:
    hidden rows (G, D) to logits. `logits` (G, vocabulary) tell of the token that comes next. Cached
    rows are never changed, so beams share those of their prompt.
    """

    def __init__(
        self,
        decoder: PhotonDecoder,
        head: Callable[[Tensor], Tensor],
        caches: list[KeyValues],
        hidden: Tensor,
        positions: Tensor,
    ):
        self.decoder = decoder
        self.head = head
        self.caches = caches
        self.positions = positions  # (3, G) of the next token
        self.logits = head(hidden)

    def step(self, tokens: Tensor) -> None:
        """Append one token (G,) to each sequence."""
        layers, ones = self.decoder.layers, [1] * len(tokens)
        hidden, start = layers.embed(tokens), 0
        for cache in self.caches:
            plan = SharedPlan(
                [], ones, cache.seen, cache.total, self.decoder.attention, tokens.device
            )
            stop = start + cache.n_layers
            hidden, _ = layers.run(hidden, self.positions, plan, start, stop, cache)
            start = stop
        self.positions = self.positions + 1
        self.logits = self.head(hidden)

    def reorder(self, index: Tensor) -> None:
        """Sequence i goes on from what was sequence index[i], to end, repeat or swap sequences."""
        index = index.cpu()
        for cache in self.caches:
            cache.seen = [cache.seen[i] for i in index.tolist()]
        index = index.to(self.logits.device)
        self.positions, self.logits = self.positions[:, index], self.logits[index]


@dataclass(frozen=True)
class Sampling:
    """Draw tokens at random: temperature, then the `top_k` likeliest, then the nucleus `top_p`.

    The steps and their edge cases are those of Hugging Face's `generate`; top_k 0 takes all, and
    top_k 1 always draws the likeliest. repetition_penalty: before all of this, the logits of the
    tokens that the sequence holds, prompt included, are divided by it where they are positive and
    multiplied where not; 1 leaves them. Every question has its own generator, seeded by `seed`, its
    id and its text: neither the questions beside it nor their number change its sample. Raises
    ValueError for values out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for key in ("temperature", "repetition_penalty"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}={getattr(self, key)}: must be above 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: legal values are in (0, 1]")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: legal values are 0 (all tokens) and above")

    @staticmethod
    def of_checkpoint(config: GenerationConfig, seed: int = 0) -> Sampling:
        """What a generation_config.json asks of `generate`, whose defaults stand for absent keys.

        Without `do_sample` the likeliest token, after the penalty.
        """
        penalty = 1.0 if config.repetition_penalty is None else config.repetition_penalty
        if not config.do_sample:
            return Sampling(top_k=1, seed=seed, repetition_penalty=penalty)
        top_k = 50 if config.top_k is None else config.top_k
        temperature, top_p = (1.0 if v is None else v for v in (config.temperature, config.top_p))
        return Sampling(temperature, top_p, top_k, seed, penalty)

    def probabilities(self, logits: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits (G, vocabulary) to the distribution that a token is drawn from, in float64.

        ids (G, n): what each sequence holds, for the repetition penalty.
        """
        steps = LogitsProcessorList()
        if self.repetition_penalty != 1:
            steps.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        steps.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            steps.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            steps.append(TopPLogitsWarper(self.top_p))
        return steps(ids, logits.float()).double().softmax(-1)

    def chooser(self, batch: VolumeBatch) -> Choose:
        """Draws for the questions of a batch: by inversion, one uniform number a token."""
        generators = [
            torch.Generator().manual_seed(self._seed(batch, i)) for i in range(len(batch.suffixes))
        ]
        ids = batch.prompt_ids(-1)  # (Q, n) what each question's sequence holds
        ids = torch.where(ids < 0, ids[:, -1:], ids)  # a second time changes nothing

        def choose(logits: Tensor, active: list[int]) -> Tensor:
            nonlocal ids
            uniform = torch.stack(
                [torch.rand((), generator=generators[i], dtype=torch.float64) for i in active]
            )
            mine = torch.tensor(active, device=ids.device)
            reached = self.probabilities(logits, ids[mine]).cumsum(-1)
            reached = reached / reached[:, -1:]
            drawn = torch.searchsorted(reached, uniform.to(reached.device)[:, None], right=True)
            ids = torch.cat([ids, ids[:, -1:].index_copy(0, mine, drawn)], 1)
            return drawn[:, 0]

        return choose

    def _seed(self, batch: VolumeBatch, question: int) -> int:
        name = batch.records[question].id if batch.records else ""
        ids = batch.suffix_ids[list(batch.suffixes)[question]].tolist()
        digest = hashlib.sha256(f"{self.seed}/{name}/{ids}".encode()).digest()
        return int.from_bytes(digest[:7])


def likeliest(logits: Tensor, active: list[int]) -> Tensor:
    """The greedy choice (G,)."""
    return logits.argmax(-1)


def without_repeats(tokens: list[int], copies: int = 4, longest: int = 16) -> list[int]:
    """The tokens with one copy of what their end repeats; the same list where it does not.

    That is when the last `copies` x p tokens are `copies` times the same p, of any p up to
    `longest`: "low low low low".
    """
    for period in range(1, longest + 1):
        n = period * copies
        end = tokens[-n:]
        if len(end) == n and end == end[:period] * copies:
            return tokens[: len(tokens) - n + period]
    return tokens


def decode(
    decoding: Decoding,
    choose: Choose,
    end_id: int,
    max_new_tokens: int,
    streamer: Streamer | None = None,
    stop_repeats: bool = False,
) -> list[list[int]]:
    """Tokens of each sequence without the end token; a sequence leaves when it ends.

    choose: the next token (G,) from logits (G, vocabulary) and the numbers of the sequences.
    stop_repeats: a sequence also ends where it repeats itself (see `without_repeats`).
    """
    answers: list[list[int]] = [[] for _ in range(len(decoding.logits))]
    active = list(range(len(answers)))
    for step in range(max_new_tokens):
        tokens = choose(decoding.logits, active)
        if streamer is not None:
            streamer.put(tokens.cpu())
        said = tokens.tolist()
        going = [place for place, token in enumerate(said) if token != end_id]
        active = [active[place] for place in going]
        for i, place in zip(active, going, strict=True):
            answers[i].append(said[place])
        if stop_repeats:
            still = [without_repeats(answers[i]) is answers[i] for i in active]
            going = [place for place, goes in zip(going, still, strict=True) if goes]
            active = [i for i, goes in zip(active, still, strict=True) if goes]
        if not active or step == max_new_tokens - 1:
            break
        if len(going) < len(said):
            index = torch.tensor(going)
            decoding.reorder(index)
            tokens = tokens[index.to(tokens.device)]
        decoding.step(tokens)
    if streamer is not None:
        streamer.end()
    return answers
