"""The paper's printed numbers: complete, consistent with our means, and labelled where printed."""

import numpy as np
import pytest

from photon.benchmarks.deeptumorvqa import SUBTYPES
from photon.benchmarks.nextqa import TYPES
from photon.benchmarks.page import layout, paper_table, printed, same_row
from photon.benchmarks.registry import benchmarks

SCORED = [benchmark for benchmark in benchmarks().values() if benchmark.protocols]
TABLES = {table.number: table for benchmark in SCORED for table in benchmark.tables}


def numbers(number, model):
    table = paper_table(number)
    cells = zip(table.rows, table.models[model], strict=True)
    return {(group, measure): float(cell) for (group, measure, _), cell in cells}


@pytest.mark.parametrize("number", TABLES)
def test_every_table_is_whole(number):
    table = paper_table(number)
    assert table.rows and table.models
    assert len({row[:2] for row in table.rows}) == len(table.rows)
    for name, cells in table.models.items():
        assert all(cells), f"Table {number}: a cell of {name} is empty"


def test_all_peers_are_there():
    names = " ".join(name for number in TABLES for name in paper_table(number).models)
    for peer in ("RadFM", "M3D-L2", "M3D-P3", "CT-CHAT", "Merlin", "OmniV", "Lingshu",
                 "Qwen2.5-VL", "Photon"):  # fmt: skip
        assert peer in names


@pytest.mark.parametrize("model", [m for m in paper_table(2).models if "Rand" not in m])
def test_the_averages_of_table_2_are_unweighted_means_over_subtypes(model):
    cells = numbers(2, model)
    subtypes = {key: value for key, value in cells.items() if key[1] != "Average"}
    assert len(subtypes) == 29
    for group in ("Meas.", "Recog.", "Vis. Rsn.", "Med. Rsn."):
        mean = np.mean([value for key, value in subtypes.items() if key[0] == group])
        assert cells[group, "Average"] == pytest.approx(mean, abs=0.0011)
    total = np.mean(list(subtypes.values()))
    assert cells["Total", "Average"] == pytest.approx(total, abs=0.0006)


def test_subtypes_of_table_2_are_those_of_the_reader():
    printed_names = {
        (measure.strip("*"), measure.endswith("*"))
        for _, measure, _ in paper_table(2).rows
        if measure != "Average"
    }
    assert printed_names == {
        (s.name, s.answer == "number") for s in SUBTYPES.values() if s.since == 1
    }


def test_table_10_is_the_mean_over_the_test_splits_questions():
    counts = {"CW": 3329, "TN": 1399, "CH": 1173, "TC": 1165, "DO": 600, "DL": 483, "DC": 322,
              "TP": 93}  # fmt: skip
    for model, average in (("Qwen2.5VL 3B", 0.7729), ("Ours 3B", 0.7723)):
        cells = numbers(10, model)
        right = sum(round(cells["NExT-QA", TYPES[code][1]] * n) for code, n in counts.items())
        assert right / sum(counts.values()) == pytest.approx(average, abs=5e-5)


def test_every_benchmark_names_tables_that_are_there():
    assert set(TABLES) == {1, 2, 5, 6, 7, 9, 10, 11, 12}
    for benchmark in SCORED:
        assert benchmark.protocols[0] == "official" and benchmark.protocols[-1] == "strict"


@pytest.mark.parametrize(
    ("value", "unit", "n", "text"),
    [
        (0.83071, "percent", 1, "83.07"), (0.8251, "fraction", 1, "0.825"),
        (0.84458, "fraction4", 1, "0.8446"), (413 / 489, "count", 489, "413/489"),
        (340.4, "tokens", 1, "0.34K"), (485.26, "tokens1", 1, "485.3"),
        (None, "percent", 0, "not computed"), (0.0, "percent", 1, "0.00"),
    ],
)  # fmt: skip
def test_values_are_printed_in_the_papers_units(value, unit, n, text):
    assert printed(value, unit, n) == text


def test_models_stand_in_columns_or_in_rows_as_in_the_paper():
    table = paper_table(1)
    lines = layout(TABLES[1], {"ours": ["1.0"] * len(table.rows)})
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert head[:2] == ["measure", "ours"]
    assert all(name.startswith("paper: ") for name in head[2:]) and len(head) == 13
    lines = layout(TABLES[7], {"ours": ["-", *["0.5"] * 6]})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows] == [
        "ours",
        "paper: Qwen2.5-VL 3B Zero-Shot",
        "paper: Qwen2.5-VL 3B + ITS Zero-Shot",
    ]
    assert rows[1][1:] == ["7.00K", "0.461", "0.460", "0.485", "0.477", "0.432", "0.460"]


def test_groups_of_which_nothing_is_known_are_left_out():
    rows = paper_table(9).rows
    ours = ["0.5" if group == "SLAKE" else "-" for group, _, _ in rows]
    lines = layout(TABLES[9], {"ours": ours})
    assert "SLAKE, Acc." in lines[0] and "MedFrameQA" not in lines[0]


def test_rows_are_found_in_any_spelling():
    assert same_row(("Meas.", "organ HU measurement*"), ("Meas.", "organ_hu_measurement"))
    assert not same_row(("Meas.", "Average"), ("Total", "Average"))
