"""Which benchmark scores a data set."""

import pytest

from photon.benchmarks.ct_rate import CtRate
from photon.benchmarks.deeptumorvqa import DeepTumorVQA
from photon.benchmarks.deeptumorvqa_v2 import DeepTumorVQA2
from photon.benchmarks.rad3d import Rad3D
from photon.errors import InputError
from tasks.benchmark_data import BenchmarkData
from tasks.benchmarking import benchmark_of
from tasks.datamodule import RecordData


@pytest.mark.parametrize(
    ("reader", "name", "tables"),
    [
        (Rad3D(), "rad3d", (1, 11, 12)),
        (DeepTumorVQA(), "deeptumorvqa", (2, 5)),
        (DeepTumorVQA(ids="OOD"), "deeptumorvqa", (6,)),
        (DeepTumorVQA2(), "deeptumorvqa_v2", ()),
    ],
)
def test_a_benchmark_scores_what_it_reads(reader, name, tables):
    found = benchmark_of(BenchmarkData(reader), None)
    assert found.facts.name == name
    assert tuple(table.number for table in found.filled()) == tables


def test_other_data_is_scored_by_a_benchmark_only_if_it_is_named():
    records = RecordData(test="answers.jsonl")
    assert benchmark_of(BenchmarkData(CtRate()), None) is None
    assert benchmark_of(records, None) is None
    assert benchmark_of(records, "slake").facts.name == "slake"
    with pytest.raises(InputError, match="evaluation.benchmark slack: there is no such benchmark"):
        benchmark_of(records, "slack")
    with pytest.raises(InputError, match="evaluation.benchmark=ct_rate: it has no protocols"):
        benchmark_of(records, "ct_rate")
