"""What a user sees who mistypes: one message, exit code 1; a sweep goes on past a broken point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.entry import point_name

SCRIPT = """
import sys
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from photon.errors import InputError
from tasks.entry import main

def task(config):
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.pruner.tau == 0.1:
        raise InputError("pruner.tau: 0.1 is broken. Take another.")
    (folder / "done").write_text(str(config.pruner.tau))

if __name__ == "__main__":
    main(task, "train", Path(__file__).resolve().parent / "conf")
"""
TRAIN = """
defaults: [_self_, {pruner: photon}, {experiment: demo}, {ablation: none}]
name: ???
hydra:
  run: { dir: "outputs/${name}" }
  sweep:
    dir: outputs/sweeps/${hydra.runtime.choices.experiment}
    subdir: ${hydra.job.override_dirname}
  job: { config: { override_dirname: { exclude_keys: [experiment, ablation, name] } } }
"""
FILES = {
    "train.py": SCRIPT,
    "conf/train.yaml": TRAIN,
    "conf/pruner/photon.yaml": "{tau: 0.2, layer: 0.25}\n",
    "conf/experiment/demo.yaml": "# @package _global_\nname: demo\n",
    "conf/ablation/none.yaml": "# @package _global_\n{}\n",
    "conf/ablation/tau.yaml": "# @package _global_\n"
    'hydra: {mode: MULTIRUN, sweeper: {params: {pruner.tau: "0.1,0.2,0.5"}}}\n',
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def call(project: Path, root: Path, *overrides: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    environment["PYTHONPATH"] = str(root)
    command = [sys.executable, "train.py", *overrides]
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_good_call_runs_in_its_own_directory(project, root) -> None:
    done = call(project, root)
    assert done.returncode == 0, done.stderr
    assert (project / "outputs/demo/done").read_text() == "0.2"
    assert (project / "outputs/demo/.hydra/config.yaml").is_file()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("pruner.taau=0.3", "pruner.taau: there is no such key; did you mean 'pruner.tau'?"),
        ("ablation=tua", "ablation=tua: there is no such file; did you mean 'tau'?"),
        ("ablation=zzz", "ablation=zzz: there is no such file; legal: none, tau"),
        ("nonsense=3", "nonsense: there is no such key; `--cfg job` prints all keys"),
        ("pruner.tau", "Error parsing override 'pruner.tau'; missing EQUAL"),
        ("pruner.tau=x:[1", "pruner.tau=x:[1: cannot be read as KEY=VALUE; quote values"),
        ("pruner.tau=0.1", "pruner.tau: 0.1 is broken. Take another."),
    ],
)
def test_a_mistake_is_one_message(project, root, override, says) -> None:
    done = call(project, root, override)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and says in line
    assert "HYDRA_FULL_ERROR" not in line and "Traceback" not in done.stderr


def test_a_sweep_file_runs_every_point_and_reports_the_broken_one(project, root) -> None:
    done = call(project, root, "ablation=tau")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line] == [
        "error: pruner.tau=0.1: pruner.tau: 0.1 is broken. Take another."
    ]
    points = sorted(p.parent.name for p in (project / "outputs/sweeps/demo").glob("*/done"))
    assert points == ["pruner.tau=0.2", "pruner.tau=0.5"]


def test_a_multirun_shares_the_directories_of_its_points(project, root) -> None:
    for _ in range(2):
        assert call(project, root, "-m", "pruner.tau=0.2,0.5").returncode == 0
    assert len(list((project / "outputs/sweeps/demo").glob("pruner*"))) == 2


def test_names_of_points_fit_in_a_folder() -> None:
    assert point_name("pruner.tau=0.1,trainer.max_steps=2") == "pruner.tau=0.1,trainer.max_steps=2"
    assert point_name("evaluation.controls=[a,b],x=1") == "evaluation.controls=[a,b],x=1"
    paths = [point_name(f"dataset.root=/data/{k},pruner.tau=0.1") for k in "ab"]
    assert all("/" not in p and p.startswith("pruner.tau=0.1,") for p in paths)
    assert paths[0] != paths[1]
    many = [point_name(",".join([*(f"key{i}=value" for i in range(99)), f"z={k}"])) for k in "ab"]
    assert max(map(len, many)) <= 160 and many[0] != many[1]
