"""`eval.py benchmark=pruning`: further timed passes, and the report over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from photon.benchmarks.benchmark import Benchmark
from photon.benchmarks.page import paper_table, same_row
from photon.errors import InputError
from photon.evaluation.scores import Row
from photon.evaluation.timed import TimedEvaluator
from photon.model.photon import PhotonModel
from photon.questions.record import Record
from photon.study.pruning_benchmark import SPEED
from photon.study.pruning_report import Score, write_benchmark

TIMED = 8  # questions of a further pass, at least


def parse_pass(name: str) -> tuple[int, int]:
    """Volumes and questions a volume of a pass written as 4x8. Raises InputError otherwise."""
    volumes, _, questions = name.partition("x")
    if not (volumes.isdigit() and questions.isdigit() and int(volumes) and int(questions)):
        raise InputError(
            f"evaluation.passes={name!r}: write volumes and questions a volume, such as 4x8"
        )
    return int(volumes), int(questions)


def timed_records(records: Sequence[Record], volumes: int, questions: int) -> list[Record]:
    """Questions of a further pass: as many of each volume as fill its batches, TIMED in all."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        groups.setdefault(record.volumes, []).append(record)
    rounds = max(1, -(-TIMED // (questions * len(groups)))) if volumes == 1 else 1
    return [record for group in groups.values() for record in group[: rounds * questions]]


def run_passes(evaluator: TimedEvaluator, names: Sequence[str], passes: Sequence[str]) -> None:
    """Answer under every condition once more in each pass after the first."""
    for name in passes[1:]:
        volumes, questions = parse_pass(name)
        replace(
            evaluator,
            records=timed_records(evaluator.records, volumes, questions),
            run_dir=evaluator.run_dir / SPEED / name,
            volumes_per_batch=volumes,
            questions=volumes * questions,
        ).run(names)


def write_report(
    run_dir: Path,
    model: PhotonModel,
    benchmark: Benchmark | None,
    provenance: Mapping[str, Any],
    passes: Sequence[str],
    seed: int,
) -> str:
    """The report of one run; returns its text."""
    weight = next(model.parameters())
    device = torch.cuda.get_device_name(weight.device) if weight.is_cuda else "cpu"
    notes = {
        "weights": provenance.get("checkpoint") or provenance.get("name"),
        "commit": provenance.get("commit"),
        "device": f"{device}, {torch.get_num_threads()} thread(s)",
        "kernel and precision of all": f"{model.attention}, {str(weight.dtype).split('.')[1]}",
        "passes": f"{passes[0]} (volumes x questions) for answers and costs; "
        + (", ".join(passes[1:]) or "no other"),
        "seed": seed,
    }
    return write_benchmark([run_dir], notes, paper_score(benchmark), seed)


def paper_score(benchmark: Benchmark | None) -> Score | None:
    """Measures of Table 3, where the data are those of the paper's Table 3 (3D-RAD)."""
    if benchmark is None or benchmark.facts.name != "rad3d" or "paper" not in benchmark.protocols:
        return None

    def score(rows: Sequence[Row]) -> dict[tuple[str, str], float | None]:
        measures = benchmark.score(rows, "paper").measures
        return {
            (group, measure): next(
                (m.value() for key, m in measures.items() if m and same_row(key, (group, measure))),
                None,
            )
            for group, measure, _ in paper_table(3).rows
        }

    return score
