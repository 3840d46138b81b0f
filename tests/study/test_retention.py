"""Reading and averaging the retention log, the figures of a run, and the notebook."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from photon.errors import InputError
from photon.evaluation.blind import constants
from photon.evaluation.predictions import prediction_row
from photon.evaluation.summary import build_metrics, write_report
from photon.study import figures, retention

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "retention_curves.ipynb"


def log(steps=60):
    """A small log: off for 10 steps, soft for 10, then hard; two subtasks of unequal size."""
    rows = []
    for step in range(steps):
        stage = "off" if step < 10 else "soft" if step < 20 else "hard"
        for subtask, n, level in (("existence", 6, 0.3), ("volume", 2, 0.5)):
            hard = level + 0.05 * np.sin(step) if stage == "hard" else 1.0
            off = stage == "off"
            rows.append(
                dict(step=step, stage=stage, subtask=subtask, n=n, hard_keep=hard,
                     soft_keep=np.nan if off else 0.6, theta=np.nan if off else 0.5,
                     band_hit=0.0 if off else 0.25, kept_tokens=128 * hard, visual_tokens=128)
            )  # fmt: skip
    return pd.DataFrame(rows)


def metrics():
    records = [
        SimpleNamespace(id=f"q{i}", volume="v", patient="p", task=None, question="?", unit=None,
                        subtask="existence" if i % 2 else "volume", organ="liver",
                        question_type="choice" if i % 2 else "free", value=None if i % 2 else 5.0,
                        choices={"A": "yes", "B": "no"} if i % 2 else None,
                        answer="B" if i % 2 else "5", answer_letter="B" if i % 2 else None)
        for i in range(12)
    ]  # fmt: skip

    def run(condition, text, kept):
        return [prediction_row(r, text, condition, kept, 128, kept / 100, 0.5) for r in records]

    others = {"no_pruning": run("no_pruning", "B", 128), "question_only": run("q", "A", 0)}
    constant = constants(records)
    return build_metrics(run("photon", "B", 40), others, constant)


@pytest.fixture
def run_dir(tmp_path):
    log().to_parquet(tmp_path / "retention.parquet")
    write_report(tmp_path, metrics())
    return tmp_path


def test_means_are_weighted_by_questions_and_skip_missing_values():
    frame = log()
    step = retention.per_step(frame)
    assert list(step["step"]) == list(range(60))
    assert step.loc[25, "hard_keep"] == pytest.approx((6 * 0.3 + 2 * 0.5) / 8 + 0.05 * np.sin(25))
    assert step.loc[25, "n"] == 8 and step.loc[25, "stage"] == "hard"
    assert np.isnan(step.loc[0, "theta"]) and step.loc[0, "band_hit"] == 0
    frame.loc[frame.index[50], "theta"] = np.nan  # one of the two subtasks of step 25
    assert retention.per_step(frame).loc[25, "theta"] == 0.5


def test_stages_and_their_spans():
    assert retention.stage_spans(log()) == [("off", 0, 10), ("soft", 10, 20), ("hard", 20, 59)]
    assert retention.stage_spans(log(5)) == [("off", 0, 4)]
    table = retention.summary(log())
    assert list(table.index) == ["off", "soft", "hard"]
    assert list(table["steps"]) == [10, 10, 40]


def test_per_subtask_takes_the_last_hard_steps():
    table = retention.per_subtask(log(), last=0.25).set_index("subtask")
    expected = 0.3 + 0.05 * np.sin(np.arange(50, 60)).mean()
    assert table.loc["existence", "hard_keep"] == pytest.approx(expected)
    assert table.loc["existence", "n"] == 60
    with pytest.raises(ValueError, match="last=0"):
        retention.per_subtask(log(), last=0)


def test_smoothing_stays_within_a_stage():
    values = pd.Series([1.0, 1.0, 1.0, 0.0, 0.0, np.nan])
    stage = pd.Series(["off"] * 3 + ["hard"] * 3)
    smooth = retention.rolling(values, 3, stage)
    assert list(smooth[:5]) == [1, 1, 1, 0, 0] and np.isnan(smooth[5])
    assert retention.rolling(pd.Series([0.0, 3.0, 0.0]), 3, stage[:3])[1] == 1.0


def test_loading_checks_the_file(tmp_path):
    with pytest.raises(InputError, match="retention.parquet: no retention log"):
        retention.load_retention(tmp_path)
    path = tmp_path / "retention.parquet"
    path.write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match="not a readable Parquet"):
        retention.load_retention(tmp_path)
    log().drop(columns=["theta", "n"]).to_parquet(path)
    with pytest.raises(InputError, match="columns n, theta are missing"):
        retention.load_retention(path)
    log().assign(stage="warm").to_parquet(path)
    with pytest.raises(InputError, match="unknown stage 'warm'"):
        retention.load_retention(path)
    log().iloc[::-1].to_parquet(path)
    assert retention.load_retention(path)["step"].is_monotonic_increasing
    log().fillna(0.0).to_parquet(path)
    theta = retention.per_step(retention.load_retention(path))["theta"]
    assert theta[:10].isna().all() and (theta[10:] == 0.5).all()


def colors(path):
    """Distinct colours of a picture: an empty figure has few."""
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))


def test_a_run_directory_gets_its_figures(run_dir):
    paths = figures.save_figures(run_dir)
    assert [p.name for p in paths] == ["retention.png", "subtasks.png", "accuracy.png"]
    for path in paths:
        assert path.parent == run_dir / "figures" and colors(path) > 50


def test_figures_follow_what_data_there_is(tmp_path):
    assert figures.save_figures(tmp_path) == []
    log(1).to_parquet(tmp_path / "retention.parquet")  # a single step
    assert [p.name for p in figures.save_figures(tmp_path)] == ["retention.png"]
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(InputError, match="metrics.json: cannot be read"):
        figures.save_figures(tmp_path)


def test_curves_show_the_data():
    figure = figures.retention_figure(log(), band=(0.3, 0.8))
    ratio, theta, band, subtasks = figure.axes
    curves = {line.get_label(): line for line in ratio.get_lines()}
    steps = retention.per_step(log())
    hard = curves["hard: share of tokens above theta"].get_ydata()
    assert hard == pytest.approx(steps["hard_keep"].to_numpy())
    soft = curves["soft: mean retention probability"].get_ydata()
    assert np.isnan(soft[:10]).all() and soft[10:] == pytest.approx(0.6)
    dotted = [line.get_ydata()[0] for line in ratio.get_lines() if line.get_linestyle() == ":"]
    assert dotted == [0.3, 0.8]
    assert {t.get_text() for t in ratio.texts} >= {"off", "soft masks", "hard pruning"}
    assert [t.get_text() for t in subtasks.get_legend().get_texts()] == ["existence", "volume"]
    assert theta.get_ylabel() == "threshold theta" and band.get_ylabel() == "band triggers"


def test_bars_show_the_metrics():
    result = metrics()
    ax = figures.accuracy_figure(result).axes[0]
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels == ["overall", "existence", "volume\n(MRA)"]
    heights = [[bar.get_height() for bar in container] for container in ax.containers
               if not hasattr(container, "has_yerr")]  # fmt: skip
    assert heights[0] == [100, 100, 0]  # photon answers B: right for choices, no number
    assert heights[2] == [0, 0, 0]  # question only answers A
    ax = figures.subtask_figure(result).axes[0]
    assert [bar.get_width() for bar in ax.patches] == [40 / 128] * 2
    marks = np.asarray(ax.collections[0].get_offsets())
    assert marks[:, 0] == pytest.approx([0.4, 0.4])
    result["retention"]["by_subtask"] = {}
    with pytest.raises(InputError, match="no token counts"):
        figures.subtask_figure(result)


def test_the_notebook_draws_a_run(run_dir, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    monkeypatch.setenv("PHOTON_RUN", str(run_dir))
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )  # fmt: skip
    client.execute()  # raises CellExecutionError on any error
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    for picture in pictures:
        assert colors(io.BytesIO(base64.b64decode(picture))) > 50
    tables = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert len(tables) == 2 and "existence" in tables[1]
    json.dumps(notebook)  # still a notebook


def test_the_band_is_the_one_that_the_run_was_trained_with(tmp_path) -> None:
    assert retention.load_band(tmp_path) is None
    (tmp_path / "run.json").write_text('{"task": {"align": {}}}')
    assert retention.load_band(tmp_path) is None
    (tmp_path / "run.json").write_text(
        '{"task": {"finetune": {"band": {"low": 0.2, "high": 0.4}}}}'
    )
    assert retention.load_band(tmp_path) == (0.2, 0.4)
    figure = figures.retention_figure(log(), retention.load_band(tmp_path))
    assert {t.get_text() for t in figure.axes[0].texts} >= {"r_min = 0.2", "r_max = 0.4"}
