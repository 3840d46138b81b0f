"""What a W&B run holds, read back from its offline file."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig

from photon.errors import InputError
from tasks.entry import CONF
from tasks.logging import mlflow_log, tensorboard_log, wandb_log
from tests.small import SMALL, SMALL_PHANTOMS

wandb_pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
SECRET = "hunter2-of-the-environment"


def records(file: Path):
    """The records of an offline .wandb file: LevelDB's log of blocks, each record a protobuf."""
    data, at, part = file.read_bytes(), 7, b""  # behind W&B's own head
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_pb.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def told(folder: Path):
    """(run, configuration, summary, keys of the history, files) of the offline run in `folder`."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    run, config, summary, history, files = None, {}, {}, set(), []
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        updates = record.run.config.update if kind == "run" else record.config.update
        config |= {u.key: json.loads(u.value_json) for u in updates if u.key}
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        history |= {item.key or item.nested_key[0] for item in record.history.item}
        files += [file.path for file in record.files.files]
    return run, config, summary, history, files


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of both phases with validation, evaluated, as a user starts it."""
    folder = tmp_path_factory.mktemp("tracked")
    root = CONF.parent
    words = [
        *SMALL, *SMALL_PHANTOMS, "dataset.n_val=2", "trainer.max_steps=4", "name=small",
        "pruner.tau=0.35", "callbacks.validation.every=2", "trainer.enable_progress_bar=false",
        "evaluation.controls=[no_pruning,random_keep]", "trainer.log_every_n_steps=1",
        "logger.wandb.tags=[${oc.env:PHOTON_TOLD}]", "logger.wandb.export=true",
    ]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k != "WANDB_API_KEY"}
    env |= {"PHOTON_TOLD": SECRET, "PYTHONPATH": str(root), "WANDB_SILENT": "true"}
    done = subprocess.run(
        [sys.executable, str(root / "train.py"), *words], cwd=folder, env=env, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not logged" not in done.stderr
    return folder / "outputs" / "small"


def test_a_run_says_what_it_was_and_what_came_out(finished):
    """Values of tau, layer and seed, accuracy with its interval, retention, controls, pictures."""
    run, config, summary, history, files = told(finished)
    assert config["pruner"]["tau"] == 0.35 and config["pruner"]["layer"] == 0.25
    assert config["seed"] == 1 and config["phase"] == "finetune"
    assert config["hardware"]["cpus"] == os.cpu_count() and "commit" in config["provenance"]
    assert config["plan_of_phase"] and "keep" in config["units"]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert summary["eval/accuracy"] == metrics["overall"]["accuracy"]
    assert summary["eval/score_low"] == metrics["overall"]["interval"]["low"]
    for name, kept in metrics["retention"]["by_subtask"].items():
        assert summary[f"eval/{name}/keep"] == kept["keep_ratio"]
    for name, control in metrics["controls"].items():
        assert summary[f"eval/controls/{name}/accuracy"] == control["accuracy"]
    assert {"loss", "val/accuracy", "val/keep", "table", "figures/accuracy"} <= history
    assert {"kept/0", "kept/1", "examples"} <= history
    pictures = [name for name in files if "kept/" in name and name.endswith(".png")]
    assert len(pictures) >= 2  # a test split of two volumes: one picture each
    assert len([name for name in files if name.endswith(".png")]) >= 3


def test_phases_are_one_group_and_the_environment_stays_outside(finished):
    (run, *_), (align, *_) = told(finished), told(finished / "align")
    assert (run.run_group, align.run_group) == ("small", "small")
    assert (run.job_type, align.job_type) == ("train", "align")
    assert (run.display_name, align.display_name) == ("small", "small-align")
    for file in finished.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".yaml", ".csv", ".md"):
            assert SECRET not in file.read_text(), file
    _, config, *_ = told(finished)
    assert SECRET not in json.dumps(config)


def test_the_export_is_an_artifact_on_request(finished):
    (file,) = finished.glob("wandb/offline-run-*/*.wandb")
    names = [r.artifact.name for r in records(file) if r.WhichOneof("record_type") == "artifact"]
    names += [
        r.request.log_artifact.artifact.name
        for r in records(file)
        if r.request.WhichOneof("request_type") == "log_artifact"
    ]
    assert "small-export" in names


@pytest.fixture
def as_point(tmp_path):
    """HydraConfig as in a point of a sweep."""
    words = ["experiment=phase2", "ablation=tau", "hydra.mode=MULTIRUN"]
    words += ["dataset.train=a", "dataset.test=b"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", words, return_hydra_config=True)
    config.hydra.job.override_dirname = "pruner.tau=0.5,seed=3"
    config.hydra.job.name = "train"
    config.hydra.runtime.output_dir = str(tmp_path / "pruner.tau=0.5,seed=3")
    config.hydra.job.num, config.hydra.job.id = 0, "0"
    HydraConfig.instance().set_config(config)
    yield tmp_path / "pruner.tau=0.5,seed=3"
    HydraConfig.instance().cfg = None


def test_points_of_a_sweep_are_a_group_with_the_varied_keys_as_tags(as_point, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    asked = wandb_log(as_point, tags=["mine"])._wandb_init
    assert asked["group"] == "phase2/tau" and asked["job_type"] == "train"
    assert asked["tags"] == ["mine", "pruner.tau=0.5", "seed=3"]
    assert wandb_log(as_point, group="own")._wandb_init["group"] == "own"


@pytest.mark.parametrize(
    "make, package", [(tensorboard_log, "tensorboard"), (mlflow_log, "mlflow")]
)
def test_a_tracker_that_is_not_installed_is_one_message(make, package, tmp_path, monkeypatch):
    from lightning.pytorch import loggers

    def absent(**options):
        raise ModuleNotFoundError(f"No module named {package}")

    for name in ("TensorBoardLogger", "MLFlowLogger"):
        monkeypatch.setattr(loggers, name, absent)
    with pytest.raises(InputError, match=f"pip install {package}"):
        make(tmp_path)
