"""Several turns about the same volumes, which are read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from photon.batch.batch import VolumeBatch
from photon.batch.builder import Visual
from photon.batch.dataset import Collate, Item
from photon.model.decoding import without_repeats
from photon.model.generate import Generation, Reading, answer, begin, read_for, read_on
from photon.model.photon import PhotonModel
from photon.pruning.base import Keep, Pruner, Selection
from photon.questions.record import Record


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and what was kept to give it.

    stopped: the answer repeated itself and was cut after the first time.
    """

    question: str
    answer: str
    generation: Generation
    stopped: bool = False


class Dialogue:
    """Questions in turn about the same volumes.

    The encoder and the layers up to l run over the volumes with the first question only. Each turn
    selects anew, by its own question; earlier turns stand before it as text. It is what asking a
    `Record` with that `history` gives (a test).

    Args:
        model: with tokenizer and preparation, such as an export.
        volumes: prepared (D, H, W) in [0, 1], images or videos, see `VolumeStore.read`.
        system: system prompt in place of the default one.
        keep, pruner: as in `generate`.
        stop_repeats: end an answer that repeats itself (see `without_repeats`).
    """

    def __init__(
        self,
        model: PhotonModel,
        volumes: Sequence[Visual],
        system: str | None = None,
        keep: Keep = None,
        pruner: Pruner | None = None,
        stop_repeats: bool = False,
    ):
        self.model = model
        self.volumes = tuple(volumes)
        self.system = system
        self.keep, self.pruner = keep, pruner
        self.stop_repeats = stop_repeats
        self.turns: list[Turn] = []
        self._collate = Collate(model.builder, model.tokenizer, with_answer=False)
        self._first: Reading | None = None
        self._last: Reading | None = None

    def ask(self, question: str, max_new_tokens: int = 64, **choice: Any) -> Turn:
        """The next turn. choice: sampling, num_beams or streamer, as in `generate`."""
        batch = self._batch(question)
        if self._first is None:
            self._first = reading = read_for(self.model, batch, pruner=self.pruner)
        else:
            reading = read_on(self.model, self._first, batch)
        turn = self._answer(question, reading, max_new_tokens, choice)
        self._last = reading
        self.turns.append(turn)
        return turn

    def again(self, max_new_tokens: int = 64, **choice: Any) -> Turn:
        """The last turn anew, with the budget that `keep` has by now; nothing is read again."""
        turn = self._answer(self.turns[-1].question, self._last, max_new_tokens, choice)
        self.turns[-1] = turn
        return turn

    def forget(self) -> None:
        """Begin a new dialogue about the same volumes, which are not read again."""
        self.turns.clear()
        self._last = None

    def select(self, keep: Keep) -> Selection:
        """What the last question would keep at a budget; nothing is read again or decoded."""
        return begin(self.model, self._last, keep=keep, pruner=self.pruner)[1]

    def _answer(
        self, question: str, reading: Reading, max_new_tokens: int, choice: dict[str, Any]
    ) -> Turn:
        stage = "off" if (self.pruner or self.model.pruner) is None else "hard"
        end, pruner = self.model.end_id, self.pruner
        how = {**choice, "stop_repeats": self.stop_repeats}
        generation = answer(
            self.model, reading, end, max_new_tokens, stage, self.keep, pruner, **how
        )
        said = generation.tokens[0]
        once = without_repeats(said) if self.stop_repeats else said
        text = self.model.tokenizer.decode(once, skip_special_tokens=True).strip()
        return Turn(question, text, generation, once is not said)

    def _batch(self, question: str) -> VolumeBatch:
        history = tuple((turn.question, turn.answer) for turn in self.turns)
        name = f"turn {len(self.turns) + 1}"  # the collate remembers prompts by their names
        record = Record(name, "", question.strip(), system=self.system, history=history)
        device = next(self.model.parameters()).device
        return self._collate([Item(self.volumes, [record])]).to(device)
