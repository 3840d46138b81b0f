"""A whole tiny study through the real commands: a sweep of variants and seeds, then its tables."""

import json

import pytest

from tests.integration.test_commands import DATA, Commands
from tests.small import SMALL

SWEEP = (
    "train.py",
    "experiment=phantom_study/components",
    "seed=0,1",
    "hydra.sweeper.rows=[[],['pruner.layer=0.5','pruner.tau=0.1']]",
    *SMALL,
    *DATA,
    "trainer.max_steps=4",
    "evaluation.max_new_tokens=2",
    "evaluation.budgets=[0.25,0.5]",
    "evaluation.pruners=[photon,oracle]",
    "evaluation.volumes=1",
    "dataset.n_ood=0",
    "dataset.follow_up=0.0",
)
VARIANT = "layer=0.5, tau=0.1"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, Commands(folder)


def test_a_table_from_a_sweep(work) -> None:
    folder, call = work
    done = call(*SWEEP)
    assert done.returncode == 0, done.stderr[-3000:]
    out = folder / "outputs" / "phantom_study" / "components"
    runs = sorted(path.parent for path in out.rglob("metrics.json"))
    assert len(runs) == 4
    for run in runs:
        assert not (run / "checkpoints").exists() and (run / "export" / "photon.json").is_file()
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["overall"]["n"] == 8  # of one volume
        assert [p["budget"] for p in metrics["curve"]] == [0.25, 0.25, 0.5, 0.5]
        kept = [p["retention"]["kept_tokens"] for p in metrics["curve"]]
        assert kept == [4.0, 4.0, 8.0, 8.0]
        assert (run / "figures" / "curve.png").is_file()
    told = call("-m", "photon", "study", str(out), "--resamples", "50")
    assert told.returncode == 0, told.stderr
    data = json.loads((out / "study.json").read_text())
    assert set(data["provenance"]["seeds"]) == {"default", VARIANT}
    assert data["provenance"]["seeds"]["default"] == [0, 1]
    assert data["Variants"]["default"]["photon@0.25"]["keep_ratio"] == 0.25
    assert "difference" in data["Variants"][VARIANT]["photon@0.25"]
    assert {"Budgets (default)", f"Budgets ({VARIANT})"} <= set(data)
    assert "Retention at the end of training" in data
    for name in ("curve", "variants", "dynamics"):
        assert (out / "figures" / f"{name}.png").is_file()
