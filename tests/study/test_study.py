"""Tables of a study on synthetic run directories whose differences are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from photon.commands.cli import main
from photon.errors import InputError
from photon.evaluation.overlap import kept_mask, organ_dissimilarity
from photon.evaluation.summary import build_metrics
from photon.study.compare import difference
from photon.study.organs import _mask
from photon.study.report import sections
from photon.study.runs import read_study, variant_names

PATIENTS, QUESTIONS, TOKENS = 10, 8, 16
GAIN = 0.25  # share of the questions that `tau=0.5` gets right and `tau=0.2` does not
ORGANS = ("liver", "spleen")


def row(q: int, right: bool, condition: str, kept: int, first: int) -> dict:
    patient = q // QUESTIONS
    mask = np.zeros(TOKENS, bool)
    mask[first : first + kept] = True
    return {
        "id": f"q{q}", "volume": f"v{patient}", "patient": f"p{patient}", "task": "t",
        "subtask": ("existence", "size")[q % 2], "question_type": "free", "question": "?",
        "answer": "yes", "choices": None, "answer_letter": None, "value": None, "unit": None,
        "organ": ORGANS[q % 2], "prediction": "yes" if right else "no", "condition": condition,
        "kept_tokens": kept, "visual_tokens": TOKENS, "coverage": 0.75 if first == 0 else 0.25,
        "theta": 0.5, "stratum": ("small", "large")[q // 2 % 2],
        "kept_mask": None if condition == "no_pruning" else np.packbits(mask).tobytes().hex(),
    }  # fmt: skip


def answers(condition: str, wrong_every: int, kept: int, offset: int = 0) -> list[dict]:
    """Every `wrong_every`-th question is wrong; organs keep tokens that do not overlap."""
    return [
        row(q, bool((q + offset) % wrong_every), condition, kept, 0 if q % 2 == 0 else 8)
        for q in range(PATIENTS * QUESTIONS)
    ]


def write_run(folder, overrides, seed, wrong_every, state="finished", place=0):
    """A run directory as training leaves it."""
    run = folder / ",".join([*overrides, f"seed={seed}"])
    rows = {
        "photon": answers("photon", wrong_every, 4),
        "no_pruning": answers("no_pruning", 8, 16),
        "shuffled_volume": answers("shuffled_volume", 2, 4),
        **{f"photon@{b}": answers(f"photon@{b}", wrong_every, n) for b, n in ((0.1, 2), (0.5, 8))},
        **{f"oracle@{b}": answers(f"oracle@{b}", 8, n) for b, n in ((0.1, 2), (0.5, 8))},
    }
    (run / ".hydra").mkdir(parents=True)
    (run / "controls").mkdir()
    words = ["experiment=phantom_study/x", *overrides, f"seed={seed}"]
    (run / ".hydra" / "overrides.yaml").write_text("".join(f"- {w}\n" for w in words))
    (run / ".hydra" / "hydra.yaml").write_text(f"hydra: {{job: {{num: {place}}}}}")
    (run / "run.json").write_text(json.dumps({"seed": seed, "name": "x"}))
    (run / "status.json").write_text(json.dumps({"state": state}))
    for name, part in rows.items():
        path = run / ("predictions.jsonl" if name == "photon" else f"controls/{name}.jsonl")
        path.write_text("".join(json.dumps(r) + "\n" for r in part))
    metrics = build_metrics(rows["photon"], {}, provenance={"commit": "abc"})
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


@pytest.fixture
def folder(tmp_path):
    """tau=0.2 is wrong at every second question, tau=0.5 at every fourth; one run was killed."""
    for seed in (0, 1):
        write_run(tmp_path, ["pruner.tau=0.2"], seed, 2)
        write_run(tmp_path, ["pruner.tau=0.5"], seed, 4, place=1)
    write_run(tmp_path, ["pruner.tau=0.5"], 2, 4, state="training")
    return tmp_path


def test_a_known_difference_is_found_with_its_interval(folder):
    study = read_study(folder)
    assert study.reference == "tau=0.2" and study.variants == ["tau=0.2", "tau=0.5"]
    found = difference(study, ("tau=0.5", "photon"), ("tau=0.2", "photon"), 200)
    assert found["mean"] == pytest.approx(GAIN) and found["n"] == PATIENTS * QUESTIONS
    # Every patient gains the same share, so that drawing patients changes nothing.
    assert found["low"] == pytest.approx(GAIN) and found["high"] == pytest.approx(GAIN)
    parts = {section.title: section.data for section in sections(study, 50)}
    table = parts["Variants"]
    assert table["tau=0.2"]["photon"]["interval"]["mean"] == pytest.approx(0.5)
    assert table["tau=0.5"]["photon"]["seeds"] == [0.75, 0.75]
    assert table["tau=0.5"]["photon@0.1"]["difference"]["mean"] == pytest.approx(GAIN)
    assert "difference" not in table["tau=0.2"]["photon"]


def test_accuracy_within_the_questions_of_a_key(folder):
    """Of the questions on size (1, 3, 5, ...) `tau=0.2`, wrong at 0, 2, 4, ..., misses none."""
    study = read_study(folder)
    parts = {section.title: section.data for section in sections(study, 20, by="subtask")}
    table = parts["Accuracy by subtask"]
    found = {
        name: {variant: entry["interval"]["mean"] for variant, entry in group.items()}
        for name, group in table.items()
    }
    assert found == {
        "existence": {"tau=0.2": 0.0, "tau=0.5": 0.5},
        "size": {"tau=0.2": 1.0, "tau=0.5": 1.0},
    }
    assert table["existence"]["tau=0.5"]["difference"]["mean"] == pytest.approx(0.5)
    assert table["existence"]["tau=0.5"]["difference"]["n"] == PATIENTS * QUESTIONS / 2
    with pytest.raises(InputError, match="--by colour"):
        sections(study, 20, by="colour")


def test_the_notebook_draws_a_study(folder, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    path = Path(__file__).resolve().parents[2] / "notebooks" / "study.ipynb"
    notebook = nbformat.read(path, as_version=4)
    monkeypatch.setenv("PHOTON_STUDY", str(folder))
    where = {"metadata": {"path": str(path.parent)}}
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where)
    client.execute()  # raises CellExecutionError on any error
    data = [o.get("data", {}) for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    text = "\n".join(d.get("text/markdown", "") for d in data)
    assert "### Accuracy by subtask" in text and "### Budgets (tau=0.5)" in text
    assert sum("image/png" in d for d in data) == 2  # curve and variants


def test_seeds_are_averaged_and_not_counted_as_questions(tmp_path):
    write_run(tmp_path, [], 0, 2)
    write_run(tmp_path, [], 1, 4)
    study = read_study(tmp_path)
    values = study.values("default", "photon")
    assert len(values) == PATIENTS * QUESTIONS
    assert sorted(set(values.values())) == [0.0, 0.5, 1.0]
    assert np.mean(list(values.values())) == pytest.approx((0.5 + 0.75) / 2)


def test_the_report_names_where_its_numbers_come_from(folder, capsys):
    assert main(["study", str(folder), "--resamples", "20"]) == 0
    text = (folder / "study.md").read_text()
    assert text in capsys.readouterr().out
    for part in (
        "python train.py experiment=phantom_study/x",
        "Commit: abc",
        "tau=0.2: [0, 1]",
        "pruner.tau=0.5,seed=2 (state training)",
        "## Budgets (tau=0.2)",
        "## Language bias",
        "Overlap of what is kept (tau=0.2)",
        "Evidence by size of the lesion (tau=0.2)",
    ):
        assert part in text, part
    data = json.loads((folder / "study.json").read_text())
    assert set(data["provenance"]["runs"].values()) == {"tau=0.2", "tau=0.5"}
    for name in ("curve", "variants"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_budgets_bias_and_overlap_of_the_synthetic_runs(folder):
    parts = {section.title: section.data for section in sections(read_study(folder), 20)}
    budgets = parts["Budgets (tau=0.2)"]
    assert budgets["share_of_oracle"]["0.1"] == pytest.approx(0.5 / 0.875)
    assert budgets["oracle"]["0.5"]["difference"]["mean"] == pytest.approx(0.5 - 0.875)
    assert budgets["photon"]["0.1"]["keep_ratio"] == pytest.approx(2 / TOKENS)
    bias = parts["Language bias"]
    assert bias["tau=0.2"]["shuffled_volume"]["unchanged"] == 1.0
    assert bias["tau=0.5"]["shuffled_volume"]["unchanged"] == pytest.approx(0.75)
    assert bias["tau=0.5"]["shuffled_volume"]["loss"]["mean"] == pytest.approx(GAIN)
    overlap = parts["Overlap of what is kept (tau=0.2)"]["photon"]
    assert overlap["different organs"]["mean"] == 1.0 and overlap["the same organ"]["mean"] == 0.0
    chance = 1 - (0.25 * 0.25) / (0.25 + 0.25 - 0.25 * 0.25)
    assert overlap["different organs"]["random"] == pytest.approx(chance)
    organs = parts["Tokens kept by organ (tau=0.2)"]["photon"]
    assert organs["liver"]["lift"] == pytest.approx(0.75 / 0.25)
    strata = parts["Evidence by size of the lesion (tau=0.2)"]["photon"]
    assert {name: entry["n"] for name, entry in strata.items()} == {"large": 80, "small": 80}


def test_masks_are_read_as_they_were_written():
    mask = np.random.default_rng(0).random(125) < 0.3
    told = {"kept_mask": np.packbits(mask).tobytes().hex(), "visual_tokens": 125}
    assert np.array_equal(kept_mask(told), mask)


def test_a_scan_alone_and_in_a_pair_are_not_compared():
    alone = {**row(0, True, "photon", 4, 0), "seed": 0}
    twice = {**alone, "visual_tokens": 2 * TOKENS, "kept_mask": "00" * (2 * TOKENS // 8)}
    other = {**alone, "organ": ORGANS[1]}
    masks = [_mask(entry) for entry in (alone, twice, other)]
    found = organ_dissimilarity(masks)
    assert [d.pairs for d in found.values()] == [1] and next(iter(found.values())).mean == 0


def test_names_of_variants():
    runs = [
        {"experiment": "e", "pruner.direction": d, "pruner.score_rope": "true", "seed": s}
        for d in ("taylor", "paper")
        for s in "01"
    ]
    assert variant_names(runs)[1:3] == ["direction=taylor", "direction=paper"]
    assert variant_names([{"seed": "0", "logger": "csv"}, {"seed": "1"}]) == ["default"] * 2
    alike = [{"robust.weight": "0"}, {"pruner": "none", "a.flip.weight": "0"}]
    assert variant_names(alike) == ["robust.weight=0", "pruner=none, flip.weight=0"]


def test_what_cannot_be_compared_is_said(folder, tmp_path_factory, capsys):
    assert main(["study", str(folder), "--reference", "best"]) == 1
    assert "there are tau=0.2, tau=0.5" in capsys.readouterr().err
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match="no run directory"):
        read_study(empty)
    write_run(empty, [], 0, 2, state="evaluating")
    with pytest.raises(InputError, match="no run is finished .*state evaluating"):
        read_study(empty)
    write_run(folder / "again", ["pruner.tau=0.2"], 1, 2)
    with pytest.raises(InputError, match="both seed 1 of tau=0.2"):
        read_study(folder)
