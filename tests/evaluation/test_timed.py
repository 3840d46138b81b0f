"""Conditions that pay for themselves, views with less of a volume, and the report over both."""

import csv
import json

import numpy as np
import pytest
import torch

from photon.errors import InputError
from photon.evaluation.conditions import parse_condition
from photon.evaluation.reduced import coarse_grid, coarser, evidence_slices, only_slices
from photon.evaluation.timed import TimedEvaluator, prefill_seconds
from photon.evaluation.views import ViewItems
from photon.study.pruning_benchmark import read_benchmark, table_rows
from photon.study.pruning_report import latex, write_benchmark
from photon.volume.store import VolumeStore
from tasks.pruning_benchmark import parse_pass, timed_records
from tests.evaluation.test_evaluator import data, evaluator, model  # noqa: F401

BUDGETS = ["random@4", "random-before@4", "pooling@4", "pyramiddrop@4", "vscan_both@4"]
NAMES = ["photon", "no_pruning", "slices@3", "slices@1", "lower_resolution@4", *BUDGETS]


def timed(model, data, folder, **options):  # noqa: F811
    root, records = data
    store = VolumeStore(root / "store", model.preparation)
    settings = {"volumes_per_batch": 1, "questions": 4, "max_new_tokens": 3, "fingerprint": "f"}
    return TimedEvaluator(model, records, store, folder, root, **{**settings, **options})


@pytest.fixture(scope="module")
def run(model, data, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("timed")
    return folder, timed(model, data, folder).run(NAMES)


def test_alone_and_timed_they_answer_as_together(model, data, run, tmp_path):  # noqa: F811
    shared = evaluator(model, data, tmp_path).run(NAMES)
    for name in NAMES:
        more = {"cost", "read_tokens"}
        told = [{k: row[k] for k in row.keys() - more} for row in run[1][name]]
        assert told == shared[name]


def test_costs_are_those_of_the_pass(model, run):  # noqa: F811
    n, rows = model.n_layers, run[1]
    for name in NAMES:
        flops = [row["cost"]["flops"] for row in rows[name] if row["cost"]["flops"]]
        first = rows[name][0]["cost"]["batch"]
        assert 1 <= len(flops) <= 4 and {r["cost"]["batch"] for r in rows[name]} >= {first}
        assert all(prefill_seconds(r["cost"]) > 0 and r["cost"]["cache_bytes"] for r in rows[name])
    flops = {name: max(r["cost"]["flops"] or 0 for r in rows[name]) for name in NAMES}
    assert flops["pooling@4"] < flops["no_pruning"]
    assert flops["slices@1"] < flops["slices@3"]
    whole = rows["no_pruning"][0]["visual_tokens"]
    cut = model.cut
    assert rows["no_pruning"][0]["read_tokens"] == whole
    assert rows["random-before@4"][0]["read_tokens"] == 4
    assert rows["random@4"][0]["read_tokens"] == (cut * whole + (n - cut) * 4) / n


def test_a_second_call_answers_nothing_twice(model, data, run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(TimedEvaluator, "_pass", None)
    assert timed(model, data, run[0]).run(NAMES) == run[1]


def test_the_report_compares_and_counts(run):
    """Differences by hand from the rows; the paper's numbers beside ours; every format."""
    folder = run[0]
    text = write_benchmark([folder], {"commit": "abc"})
    rows = {row["condition"]: row for row in table_rows(read_benchmark([folder]))}
    assert set(rows) == set(NAMES)
    gap = rows["pooling@4"]["accuracy"] - rows["random-before@4"]["accuracy"]
    assert rows["pooling@4"]["minus_random"] == pytest.approx(gap)
    assert rows["random@4"]["minus_random"] is None and rows["photon"]["minus_random"] is None
    assert rows["slices@1"]["minus_slices"] == pytest.approx(
        rows["slices@1"]["accuracy"] - rows["slices@3"]["accuracy"]
    )
    assert rows["slices@1"]["place"] == "input"
    places = {name: rows[name]["place"] for name in NAMES}
    assert places["random@4"] == places["pyramiddrop@4"] == "inside" != places["vscan_both@4"]
    costs = {r["cost"]["batch"]: r["cost"] for r in run[1]["pooling@4"]}
    prefill = [1000 * prefill_seconds(c) for c in costs.values()]
    assert rows["pooling@4"]["prefill_p50_ms"] == pytest.approx(np.median(prefill))
    assert "paper: HiPrune 2.1K" in text and "## 4 tokens" in text and "abc" in text
    lines = list(csv.DictReader((folder / "pruning.csv").open()))
    assert {line["condition"] for line in lines} == set(NAMES)
    assert json.loads((folder / "pruning.json").read_text())["notes"] == {"commit": "abc"}
    tex = (folder / "table_3.tex").read_text()
    assert (
        tex.count("\\\\") == 2 + len(NAMES) + 9 and (folder / "figures/accuracy_time.png").exists()
    )
    seeds = write_benchmark([folder, folder], {})
    assert json.loads((folder / "pruning.json").read_text())["rows"][0]["seeds"] == 2 and seeds
    with pytest.raises(InputError, match="no predictions"):
        read_benchmark([folder / "figures"])


def test_latex_escapes():
    assert latex(["a_b"], [["5 %"], None]).count("\\_") == 1


def test_coarse_grids_meet_the_count_and_keep_the_shape():
    for count in range(1, 129):
        grid = coarse_grid((8, 4, 4), count)
        assert 0.8 * count <= np.prod(grid) <= count or np.prod(grid) >= 0.5 * count
    assert coarse_grid((8, 4, 4), 16) == (4, 2, 2) and coarse_grid((8, 4, 4), 128) == (8, 4, 4)


def test_fewer_voxels_are_means():
    volume = torch.randn(2, 8, 8, 8)
    out = coarser(volume, 8, (2, 2, 2))
    assert out.shape == (2, 4, 4, 4)
    expected = volume.unflatten(1, (4, 2)).unflatten(3, (4, 2)).unflatten(5, (4, 2)).mean((2, 4, 6))
    torch.testing.assert_close(out, expected)
    assert coarser(volume[0], 1.0, (2, 2, 2)).equal(volume[0])


def test_slices_are_those_of_the_evidence():
    labels = np.zeros((12, 4, 4), dtype=np.uint8)
    labels[6:9, :2, :2] = 3
    labels[8, :4, :4] = 3
    assert evidence_slices(labels, (3,), 1, 12) == [8]
    assert evidence_slices(labels, (3,), 3, 12) == [6, 8, 8]
    assert evidence_slices(labels, (4,), 3, 12) == evidence_slices(None, (), 3, 12) == [1, 5, 9]
    volume = torch.arange(12.0)[:, None, None].expand(12, 2, 2)
    out = only_slices(volume, 3, 2, labels, (3,))
    assert out[:, 0, 0].tolist() == [6, 6, 8, 8, 8, 8]


def test_slices_are_shown_an_organ_at_a_time(model, data, tmp_path):  # noqa: F811
    root, records = data
    store = VolumeStore(root / "store", model.preparation)
    token = model.builder.token
    items = ViewItems("slices@1", records, records, store, root, 0, token)
    seen = []

    def collate(parts):
        seen.extend(part.records for part in parts)
        assert all(p.volumes[0].shape[-3] == token[0] and p.labels is None for p in parts)
        return parts

    list(items.batches(collate, 1, 64))
    assert sorted(r.id for part in seen for r in part) == sorted(r.id for r in records)
    assert all(len({tuple(r.evidence) for r in part}) == 1 for part in seen)


def test_names_of_conditions_and_passes():
    before = parse_condition("random-before@0.1")
    assert before.before and before.pruner == "random" and before.method == "random-before"
    assert parse_condition("slices@3").view == "slices@3"
    assert parse_condition("lower_resolution@0.1").pruner is None
    for wrong in ("slices@0.5", "divprune-before@0.1"):
        with pytest.raises(ValueError):
            parse_condition(wrong)
    assert parse_pass("4x8") == (4, 8)
    with pytest.raises(InputError, match="such as 4x8"):
        parse_pass("0x8")


def test_questions_of_a_further_pass(data):  # noqa: F811
    records = data[1]
    volumes = len({r.volumes for r in records})
    assert len(timed_records(records, 4, 2)) == 2 * volumes
    assert len(timed_records(records, 1, 1)) >= volumes
