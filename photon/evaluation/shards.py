"""Evaluation over several processes: who answers what, and one file out of the ranks' files.

The processes never talk to each other. Each reads what all have written, answers its own part, and
the one that finds every question answered merges. A killed rank loses nothing but its last line:
the same command, with any number of processes, answers what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photon.errors import InputError
from photon.evaluation.predictions import (
    check_fingerprint,
    read_predictions,
    write_fingerprint,
)
from photon.files import write_text

# Set by torchrun, and by srun; the first pair that is there counts.
VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Shard:
    """Part `rank` of `world`; the whole by default."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise InputError(f"rank {self.rank} of {self.world} processes: ranks run from 0")

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Shard:
        """The process's own part, as torchrun or srun numbered it."""
        for rank, world in VARIABLES:
            if rank in environment and world in environment:
                if not (environment[rank].isdecimal() and environment[world].isdecimal()):
                    raise InputError(f"{rank} and {world} must be whole numbers")
                return Shard(int(environment[rank]), int(environment[world]))
        return Shard()

    def mine(self, records: Sequence[Any]) -> list[Any]:
        """The records of this part, in order.

        A part is drawn by the hash of a question's id, namely of the first id (in order) among the
        questions on the same volumes: these are read once, so they stay together. It depends on
        nothing but the ids.
        """
        if self.world == 1:
            return list(records)
        first: dict[Any, str] = {}
        for record in records:
            item = _item(record)
            first[item] = min(first.get(item, record.id), record.id)
        return [r for r in records if _hash(first[_item(r)]) % self.world == self.rank]

    def path(self, path: Path) -> Path:
        """Where this part writes what goes to `path` in the end."""
        if self.world == 1:
            return path
        return path.with_name(f"{path.stem}.rank{self.rank}{path.suffix}")


def _item(record: Any) -> tuple:
    return (record.volume, *(getattr(record, "more_volumes", None) or ()))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def read_parts(path: Path, fingerprint: Any = None, but: Path | None = None) -> list[dict]:
    """Rows of `path` and of every rank's file for it, each question once; `but`: leave out a file.

    Other ranks may be writing: an incomplete last line is not an answer yet. InputError if a file
    was begun with another fingerprint.
    """
    rows: dict[str, dict] = {}
    for part in (path, *sorted(path.parent.glob(f"{path.stem}.rank*{path.suffix}"))):
        if part == but or not part.is_file():
            continue
        check_fingerprint(part, fingerprint)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for row in read_predictions(part):
                rows.setdefault(str(row["id"]), row)
    return list(rows.values())


def merge_parts(path: Path, records: Sequence[Any], fingerprint: Any = None) -> list[dict] | None:
    """All rows in the order of the records, written to `path`; None while any is missing."""
    rows = {str(row["id"]): row for row in read_parts(path, fingerprint)}
    if any(str(record.id) not in rows for record in records):
        return None
    ordered = [rows[str(record.id)] for record in records]
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in ordered]
    write_text(path, "".join(lines))
    write_fingerprint(path, fingerprint)
    return ordered
