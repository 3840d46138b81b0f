"""metrics.json and table.md: structure, pairing, intervals."""

import json
from types import SimpleNamespace

import pytest

from photon.evaluation import summary
from photon.evaluation.blind import constants
from photon.evaluation.predictions import prediction_row
from photon.evaluation.table import format_table

CHOICES = {"A": "yes", "B": "no"}


def records():
    out = []
    for i in range(40):
        number = i % 4 == 3
        letter = "A" if i % 3 else "B"
        out.append(
            SimpleNamespace(
                id=f"q{i}", volume=f"v{i // 8}", patient=f"p{i // 8}", task="t", question="?",
                subtask=["existence", "side", "side", "volume"][i % 4], unit=None, organ="liver",
                question_type="free" if number else "choice", answer="100 mL" if number else letter,
                choices=None if number else CHOICES, answer_letter=None if number else letter,
                value=100.0 if number else None,
            )
        )  # fmt: skip
    return out


def run(condition, wrong, kept, coverage=None):
    """Rows in which each question whose index is in `wrong` is answered wrongly."""
    rows = []
    for i, r in enumerate(records()):
        bad = "30 mL" if r.value else {"A": "B", "B": "A"}[r.answer]
        text = bad if i in wrong else r.answer
        rows.append(prediction_row(r, text, condition, kept, 128, coverage, 0.5))
    return rows


@pytest.fixture(scope="module")
def metrics():
    others = {
        "random_keep": run("random_keep", range(0, 40, 2), 32, 0.25)[::-1],
        "no_pruning": run("no_pruning", range(0), 128, 1.0),
        "question_only": run("question_only", range(40), 0),
    }
    constant = constants(records(), records()[:20])
    return summary.build_metrics(run("photon", range(4), 32, 0.5), others, constant, {"seed": 3})


def test_structure_is_the_contracts(metrics):
    assert set(metrics) == {
        "overall", "macro", "subtasks", "tasks", "retention", "coverage", "controls", "provenance"
    }  # fmt: skip
    assert metrics["overall"]["accuracy"] == pytest.approx(27 / 30)
    assert metrics["overall"]["n"] == 40
    assert metrics["subtasks"]["existence"]["n"] == 10
    assert metrics["subtasks"]["volume"]["mra"] == pytest.approx(0.9)
    assert metrics["retention"]["keep_ratio"] == 0.25
    assert metrics["retention"]["kept_tokens"] == 32
    assert metrics["retention"]["visual_tokens"] == 128
    assert metrics["retention"]["by_subtask"]["side"]["keep_ratio"] == 0.25
    assert metrics["coverage"]["mean"] == 0.5 and metrics["coverage"]["random"] == 0.25
    assert metrics["controls"]["question_only"]["accuracy"] == 0.0
    assert metrics["controls"]["question_only"]["coverage"]["mean"] is None
    assert metrics["controls"]["no_pruning"]["accuracy"] == 1.0
    assert metrics["controls"]["constant"]["source"] == "train"
    assert (
        metrics["controls"]["constant"]["upper_bound"]["accuracy"]
        >= (metrics["controls"]["constant"]["accuracy"])
    )
    json.loads(json.dumps(metrics, allow_nan=False))


def test_differences_are_paired_by_question_not_by_position(metrics):
    entry = metrics["controls"]["random_keep"]  # was given in reverse order
    # judged and wrong: photon 0, 1, 2; random: 20 even questions, none of them numbers
    assert entry["difference"]["mean"] == pytest.approx((30 - 3) / 30 - (30 - 20) / 30)
    assert entry["difference"]["n"] == 30
    assert entry["difference"]["low"] > 0.2
    no_pruning = metrics["controls"]["no_pruning"]["difference"]
    assert no_pruning["mean"] == pytest.approx(-0.1) and no_pruning["high"] <= 0


def test_intervals_contain_their_mean(metrics):
    groups = [metrics["overall"], *metrics["subtasks"].values(), *metrics["controls"].values()]
    for group in groups:
        interval = group["interval"]
        assert interval["low"] <= interval["mean"] <= interval["high"]
    assert metrics["subtasks"]["side"]["interval"]["n"] == 20


def test_a_file_without_token_counts_or_controls_is_reported_too():
    rows = [{**r, "kept_tokens": None, "coverage": None} for r in run("file", range(4), None)]
    metrics = summary.build_metrics(rows)
    assert metrics["retention"]["keep_ratio"] is None and metrics["retention"]["n"] == 0
    assert metrics["controls"] == {}
    table = format_table(metrics, own="file")
    assert "file" in table and "Kept" not in table and "90.0" in table


def test_numbers_only_are_compared_by_mra():
    rows = [r for r in run("photon", range(4), 32) if r["value"]]
    metrics = summary.build_metrics(rows, {"question_only": rows})
    assert metrics["overall"]["accuracy"] is None
    assert metrics["overall"]["interval"]["mean"] == pytest.approx(0.9)
    assert "MRA (95 %)" in format_table(metrics)


def test_table_reads_in_a_terminal(metrics, tmp_path):
    table = summary.write_report(tmp_path / "run", metrics)
    assert (tmp_path / "run" / "table.md").read_text() == table
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["metrics.json", "table.md"]
    blocks = [block.splitlines() for block in table.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for block in blocks:
        assert len({len(line) for line in block}) == 1 and len(block[0]) <= 160
        assert len({line.count("|") for line in block}) == 1
    head = [cell.strip() for cell in blocks[0][0].strip("|").split("|")]
    assert head == ["subtask", "n", "Photon", "no pruning", "random keep", "question only (ood)",
                    "constant", "kept %"]  # fmt: skip
    existence = next(line for line in blocks[0] if line.startswith("| existence"))
    wrong = 1 - 1 / 10  # of q0, q4, ... q36 only q0 is wrong
    cells = [cell.strip() for cell in existence.strip("|").split("|")]
    assert cells[:3] == ["existence", "10", f"{100 * wrong:.1f}"] and cells[-1] == "25.0"
    assert "+56.7 [" in table and "32.0 of 128" in table
