"""A model and a scan with their dialogue, as the page of `python -m photon view --model` sees them.

One request at a time uses the model; what they return is plain and goes to the page as JSON.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TextStreamer

from photon.errors import InputError
from photon.model.dialogue import Dialogue, Turn
from photon.model.generate import Generation
from photon.model.photon import PhotonModel
from photon.view import drawing
from photon.volume.store import VolumeStore

Tell = Callable[[dict[str, Any]], None]


class Desk:
    """Answers questions about one scan.

    Args:
        model: an export, with tokenizer and preparation.
        store: of the model's preparation.
        scan: path of a volume.
        max_new_tokens: of an answer.
        notes: what the page says above the dialogue.
    """

    def __init__(
        self,
        model: PhotonModel,
        store: VolumeStore,
        scan: str,
        max_new_tokens: int = 64,
        notes: tuple[str, ...] = (),
    ):
        self.model, self.store, self.scan, self.notes = model, store, scan, notes
        self.max_new_tokens = max_new_tokens
        self.dialogue = Dialogue(model, [store.read(scan)], stop_repeats=True)
        hu = store.load_hu(scan)
        self.grid = [n // t for n, t in zip(hu.shape, model.builder.token, strict=True)]
        self.tokens = math.prod(self.grid)
        self._lock = threading.Lock()

    def data(self) -> dict[str, Any]:
        """data.js: what the page knows before the first question, and the turns so far."""
        name, pruner = Path(self.scan).name, self.model.pruner
        window = drawing.window_of(self.store.load_hu(self.scan))
        return {
            "mode": "live",
            "title": name,
            "notes": list(self.notes),
            "volumes": [{"name": name, "grid": self.grid, "labels": False, "window": window}],
            "tokens": self.tokens,
            "prunes": pruner is not None,
            "threshold": hasattr(pruner, "predictor"),
            "turns": [self._told(turn) for turn in self.dialogue.turns],
        }

    def volume(self) -> str:
        """The script with the prepared scan."""
        affine = np.array(self.store.info(self.scan)["affine"])
        return drawing.script("volumes/0", self.store.load_hu(self.scan), affine)

    def ask(self, request: dict[str, Any], tell: Tell) -> None:
        """{question, keep} -> {text} as the answer comes, then {turn}."""
        question = request.get("question")
        if not isinstance(question, str) or not question.strip():
            raise InputError("the question is empty")
        self._answer(lambda **how: self.dialogue.ask(question.strip(), **how), request, tell)

    def again(self, request: dict[str, Any], tell: Tell) -> None:
        """{keep} -> the last question anew at a budget (None: the model's own), likewise."""
        self._require_turn()
        self._answer(self.dialogue.again, request, tell)

    def select(self, request: dict[str, Any], tell: Tell) -> None:
        """{keep} -> what the last question would keep."""
        self._require_turn()
        keep = self._budget(request)
        with self._lock:
            selection = self.dialogue.select(keep)
        last = self.dialogue.turns[-1].generation
        tell(self._kept(Generation([], last.present, selection)))

    def forget(self, request: dict[str, Any], tell: Tell) -> None:
        """{} -> {}: a new dialogue."""
        with self._lock:
            self.dialogue.forget()
        tell({})

    def _answer(self, how: Callable[..., Turn], request: dict[str, Any], tell: Tell) -> None:
        device = next(self.model.parameters()).device
        with self._lock:
            before, self.dialogue.keep = self.dialogue.keep, self._budget(request)
            try:
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    turn = how(
                        max_new_tokens=self.max_new_tokens,
                        streamer=_Words(self.model.tokenizer, tell),
                    )
            except BaseException:
                self.dialogue.keep = before
                raise
        tell({"turn": self._told(turn)})

    def _budget(self, request: dict[str, Any]) -> int | None:
        keep = request.get("keep")
        if keep is None or (self.model.pruner is None and keep == self.tokens):
            return None
        if type(keep) is not int or not 1 <= keep <= self.tokens:
            raise InputError(f"keep={keep!r}: give a whole number from 1 to {self.tokens}")
        return keep

    def _require_turn(self) -> None:
        if not self.dialogue.turns or self.model.pruner is None:
            raise InputError("there is no question to select for: ask one first")

    def _told(self, turn: Turn) -> dict[str, Any]:
        return {
            "question": turn.question,
            "answer": turn.answer,
            "stopped": turn.stopped,
            "seconds": sum(turn.generation.seconds.values()),
            **self._kept(turn.generation),
        }

    def _kept(self, generation: Generation) -> dict[str, Any]:
        """Counts, the mask and the scores (a byte a token), on the grid as it is drawn."""
        flip = self.model.preparation.flip_x

        def drawn(values: torch.Tensor) -> np.ndarray:
            grid = values.numpy().reshape(self.grid)
            return grid[..., ::-1].ravel() if flip else grid.ravel()

        keep, selection = generation.keep_masks[0], generation.selection
        told = {"kept": int(keep.sum()), "tokens": self.tokens, "scores": None}
        told["mask"] = np.packbits(drawn(keep)).tobytes().hex()
        if selection is not None and selection.scores is not None:
            scores = 255 * generation.on_grids(selection.scores)[0].float().clamp(0, 1)
            told["scores"] = drawn(scores).round().astype(np.uint8).tobytes().hex()
        return told


class _Words(TextStreamer):
    """Tells of an answer's words as they come."""

    def __init__(self, tokenizer: Any, tell: Tell):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.tell = tell

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.tell({"text": text})


def as_line(told: dict[str, Any]) -> bytes:
    """A line of JSON, as the page reads answers."""
    return (json.dumps(told) + "\n").encode()
