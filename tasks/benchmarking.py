"""The benchmark part of a report: the protocols of a data set, and benchmark.md beside table.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photon.benchmarks.protocol import Bert, Row
from photon.benchmarks.protocols import BENCHMARKS, Benchmark, find_benchmark
from photon.benchmarks.report import (
    benchmark_metrics,
    constants,
    score_benchmark,
    with_extra,
)
from photon.benchmarks.table import format_benchmark
from photon.evaluation.text_metrics import ROBERTA_LARGE_LAYER, BertScorer
from photon.files import write_text
from photon.questions.record import Record
from tasks.datamodule import QuestionData

OTHER_INSTITUTIONS = 6  # the table of DeepTumorVQA's OOD split


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


def benchmark_of(data: QuestionData, name: str | None) -> tuple[Benchmark, tuple[int, ...]] | None:
    """The protocols of a data set and the paper's tables that it fills; None for other data.

    name: of photon.benchmarks.protocols, in place of what the data set's reader says.
    """
    reader = getattr(data, "reader", None)
    if name is None and reader is not None:
        name = reader.facts.name
        if getattr(reader, "version", "v1") == "v2":
            name = f"{name}_v2"
        name = name if name in BENCHMARKS else None
    if name is None:
        return None
    benchmark = find_benchmark(name)
    other = getattr(reader, "ids", None) == "OOD"
    inside = tuple(number for number in benchmark.tables if number != OTHER_INSTITUTIONS)
    return benchmark, (OTHER_INSTITUTIONS,) if other else inside


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
    found = benchmark_of(data, scoring.benchmark)
    if found is None:
        return ""
    benchmark, tables = found
    columns = score_benchmark(
        benchmark,
        [with_extra(rows, records) for rows in seeds],
        {name: with_extra(rows, records) for name, rows in controls.items()},
        constants(records, train),
        scoring.bert(),
    )
    metrics["benchmark"] = benchmark_metrics(benchmark, columns, seed)
    text = format_benchmark(benchmark, columns, metrics["benchmark"], tables)
    write_text(run_dir / "benchmark.md", text)
    return text
