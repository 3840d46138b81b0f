"""The benchmark part of a report: the protocols of a data set, and benchmark.md beside table.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photon.benchmarks.benchmark import Benchmark
from photon.benchmarks.judging import Bert, Row
from photon.benchmarks.page import format_benchmark
from photon.benchmarks.registry import find_benchmark
from photon.benchmarks.scoring import (
    benchmark_metrics,
    blind_controls,
    score_benchmark,
    with_extra,
)
from photon.errors import InputError
from photon.evaluation.text_metrics import ROBERTA_LARGE_LAYER, BertScorer
from photon.files import write_text
from photon.questions.record import Record
from tasks.datamodule import QuestionData


@dataclass(frozen=True)
class Scoring:
    """How published benchmarks are scored; keys of the `evaluation` node.

    Args:
        benchmark: protocols to apply; None takes those of the data set, if it is a benchmark.
        bert_encoder: folder of BERTScore's encoder (roberta-large); None: not computed.
        bert_layer: whose hidden states are compared.
        device: of the encoder.
    """

    benchmark: str | None = None
    bert_encoder: str | None = None
    bert_layer: int = ROBERTA_LARGE_LAYER
    device: str = "cpu"

    def bert(self) -> Bert | None:
        """The scorer. Raises InputError where the folder holds no encoder."""
        if self.bert_encoder is None:
            return None
        return BertScorer(self.bert_encoder, self.bert_layer, self.device)


def benchmark_of(data: QuestionData, name: str | None) -> Benchmark | None:
    """The benchmark whose protocols score a data set; None for other data.

    name: of photon.benchmarks.registry, in place of what the data set is read by.
    """
    if name is not None:
        found = find_benchmark(name, "evaluation.benchmark")()
        if not found.protocols:
            raise InputError(f"evaluation.benchmark={name}: it has no protocols of its own")
        return found
    reader = getattr(data, "reader", None)
    return reader if reader is not None and reader.protocols else None


def add_benchmark(
    metrics: dict[str, Any],
    data: QuestionData,
    scoring: Scoring,
    run_dir: Path,
    records: Sequence[Record],
    train: Sequence[Record] | None,
    seeds: Sequence[Sequence[Row]],
    controls: Mapping[str, Sequence[Row]],
    seed: int = 0,
) -> str:
    """Score by the benchmark's protocols: metrics["benchmark"], benchmark.md, and its text.

    seeds: rows of each run of one model, in the order of the records. Empty text where the data is
    of no benchmark.
    """
    benchmark = benchmark_of(data, scoring.benchmark)
    if benchmark is None:
        return ""
    columns = score_benchmark(
        benchmark,
        [with_extra(rows, records) for rows in seeds],
        {name: with_extra(rows, records) for name, rows in controls.items()},
        blind_controls(records, train),
        scoring.bert(),
    )
    metrics["benchmark"] = benchmark_metrics(benchmark, columns, seed)
    text = format_benchmark(benchmark, columns, metrics["benchmark"])
    write_text(run_dir / "benchmark.md", text)
    return text
