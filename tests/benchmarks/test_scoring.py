"""A benchmark's report: protocols, controls, seeds and the text of benchmark.md."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from photon.benchmarks.organs import organ_of
from photon.benchmarks.page import format_benchmark
from photon.benchmarks.registry import find_benchmark
from photon.benchmarks.scoring import (
    benchmark_metrics,
    blind_controls,
    score_benchmark,
    with_extra,
)

BENCHMARK = find_benchmark("rad3d")()
N = 60


def record(i):
    """A third of the findings is there; two subtasks; every second one about the lung."""
    lung = i % 2 == 0
    return SimpleNamespace(
        id=f"q{i:03}", volume=f"v{i // 6}", patient=f"p{i // 6}", task="existence_detection",
        subtask="Lung nodule" if lung else "Hiatal hernia", question_type="choice",
        question=f"Is there a {'lung nodule' if lung else 'hernia'}?\nA. Yes\nB. No",
        choices={"A": "Yes", "B": "No"}, answer_letter="A" if i % 3 == 0 else "B",
        answer="A. Yes" if i % 3 == 0 else "B. No", value=None, unit=None, organ=None,
        extra={"QuestionType": "Close"},
    )  # fmt: skip


RECORDS = [record(i) for i in range(N)]


def rows(wrong=(), kept=300, **extra):
    out = []
    for i, one in enumerate(RECORDS):
        swapped = {"A. Yes": "B. No", "B. No": "A. Yes"}[one.answer]
        row = {k: v for k, v in vars(one).items() if k != "extra"}
        row |= {"prediction": swapped if i in wrong else one.answer, "condition": "photon",
                "kept_tokens": kept, "visual_tokens": 1000, **extra}  # fmt: skip
        out.append(row)
    return out


@pytest.fixture(scope="module")
def columns():
    controls = {"question_only": rows(range(0, N, 3), 0)}  # always no
    return score_benchmark(BENCHMARK, [rows(range(6))], controls, blind_controls(RECORDS, RECORDS))


@pytest.fixture(scope="module")
def metrics(columns):
    return benchmark_metrics(BENCHMARK, columns)


def test_values_intervals_and_paired_differences(metrics):
    json.dumps(metrics, allow_nan=False)
    entry = metrics["protocols"]["strict"]["all"]
    accuracy = entry["measures"]["Existence Detection | Accuracy"]
    assert accuracy["value"] == pytest.approx(1 - 6 / N) and accuracy["n"] == N
    assert accuracy["interval"]["low"] < accuracy["value"] < accuracy["interval"]["high"]
    control = entry["controls"]["question_only"]["measures"]["Existence Detection | Accuracy"]
    assert control["value"] == pytest.approx(2 / 3)
    # Of 20 "yes" the run misses two more than its wrong "no"s: 54 right against 40.
    assert control["difference"]["mean"] == pytest.approx((54 - 40) / N)
    assert control["difference"]["low"] > 0
    balanced = entry["controls"]["question_only"]["measures"]
    assert balanced["Existence Detection | Balanced accuracy"]["value"] == 0.5
    assert entry["confusion"]["Existence Detection"] == {
        "no": {"no": 36, "yes": 4},
        "yes": {"no": 2, "yes": 18},
    }


def test_constants_stand_beside_every_protocol(metrics):
    for protocol in ("official", "paper", "strict"):
        controls = metrics["protocols"][protocol]["all"]["controls"]
        for name in (
            "constant: train, per task",
            "constant: train, per subtask",
            "constant: test, per task",
            "constant: test, per subtask",
        ):
            value = controls[name]["measures"]["Existence Detection | Accuracy"]["value"]
            assert value == pytest.approx(2 / 3), (protocol, name)


def test_the_text_has_the_papers_layout_controls_and_labels(columns, metrics):
    text = format_benchmark(BENCHMARK, columns, metrics)
    table = next(block for block in text.split("\n\n") if block.startswith("| measure"))
    head = [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")]
    assert head[1:4] == ["ours (official)", "ours (paper)", "ours (strict)"]
    assert "constant: train, per task" in head and "paper: Finetuned/Photon 3B" in head
    line = next(x for x in table.splitlines() if "Existence Detection, Accuracy" in x)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3] == "90.00" and cells[head.index("constant: train, per task")] == "66.67"
    assert cells[head.index("paper: Finetuned/Photon 3B")] == "83.07"
    assert "question only (ood)" in text and "+23.33 [" in text
    assert "not reproduced here" in text
    assert text.isascii() and "not computed" not in text  # no open question was asked


def test_several_seeds_give_a_mean_and_a_spread():
    seeds = [rows(range(n)) for n in (6, 12, 18)]
    columns = score_benchmark(BENCHMARK, seeds)
    metrics = benchmark_metrics(BENCHMARK, columns)
    entry = metrics["protocols"]["strict"]["all"]["measures"]["Existence Detection | Accuracy"]
    values = [1 - n / N for n in (6, 12, 18)]
    assert entry["seeds"] == pytest.approx(values)
    assert entry["value"] == pytest.approx(0.8)
    assert entry["spread"] == pytest.approx(np.std(values, ddof=1))
    assert entry["interval"]["mean"] == pytest.approx(0.8)
    confusion = metrics["protocols"]["strict"]["all"]["confusion"]["Existence Detection"]
    assert sum(sum(counts.values()) for counts in confusion.values()) == 3 * N
    text = format_benchmark(BENCHMARK, columns, metrics)
    assert "80.00 +- 10.00" in text


def test_what_a_record_says_beyond_the_columns_reaches_the_protocols():
    joined = with_extra([{"id": "q000", "prediction": "x"}], RECORDS)
    assert joined[0]["QuestionType"] == "Close" and joined[0]["prediction"] == "x"


def test_tables_11_and_12_count_kept_tokens_of_lung_questions():
    keep = np.zeros(1000, bool)
    keep[:300] = True
    extra = {"kept_mask": np.packbits(keep).tobytes().hex()}
    own = rows(**extra)
    for i, row in enumerate(own):
        if organ_of(row) == "lung":
            # Volume v0 has a lung of 100 tokens, all kept; the others 400, half of them kept.
            first = row["volume"] == "v0"
            own[i] |= {"coverage": 1.0 if first else 0.5, "organ_tokens": 100 if first else 400}
        else:
            own[i] |= {"coverage": None, "organ_tokens": None}
    columns = score_benchmark(BENCHMARK, [own])
    scored = columns["strict", ""].own.measures
    assert scored["Avg. retained lung tokens", "Existence Detection"].value() == 300
    per_volume = scored["Lung coverage", "Mean per volume coverage"].value()
    assert per_volume == pytest.approx((1.0 + 9 * 0.5) / 10)
    whole = scored["Lung coverage", "Global coverage"].value()
    assert whole == pytest.approx((1.0 * 100 + 9 * 0.5 * 400) / (100 + 9 * 400))
    text = format_benchmark(BENCHMARK, columns, benchmark_metrics(BENCHMARK, columns))
    assert "Table 12 of the paper" in text and f"{whole:.3f}" in text and "0.831" in text


@pytest.mark.parametrize(
    ("question", "subtask", "organ"),
    [
        ("Is there a lung nodule?", "x", "lung"),
        ("Where is the lesion?", "Pulmonary fibrotic sequela", "lung"),
        ("Is the right upper lobe affected?", "x", "lung"),
        ("Is the liver larger than the spleen?", "x", None),  # two organs
        ("How large is the left kidney?\nA. as the lung", "x", "kidney"),
        ("Are lungs clear?", "x", "lung"),
        ("What is plunging?", "x", None),
        ("Any hepatic lesion?", "x", "liver"),
    ],
)
def test_the_organ_a_question_names(question, subtask, organ):
    assert organ_of({"question": question, "subtask": subtask}) == organ


def test_dissimilarity_of_two_organs_on_one_volume():
    masks = {"lung": range(0, 40), "liver": range(20, 60)}
    own = []
    for i, (organ, kept) in enumerate(masks.items()):
        keep = np.zeros(100, bool)
        keep[list(kept)] = True
        row = {**rows()[i], "id": f"d{i}", "question": f"Is the {organ} large?", "subtask": "x",
               "visual_tokens": 100, "kept_mask": np.packbits(keep).tobytes().hex()}  # fmt: skip
        own.append(row)
    scored = BENCHMARK.score(own, "strict")
    assert scored.measures["Dissimilarity", "liver vs lung"].value() == pytest.approx(1 - 20 / 60)
    assert any("random masks" in note for note in scored.notes)
