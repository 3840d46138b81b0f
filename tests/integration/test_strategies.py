"""Several processes train what one trains: DDP, FSDP2 and DeepSpeed's ZeRO-2, a row each.

Whole commands on two gloo processes: both phases and all stages, with flips, perturbed volumes,
accumulation, clipping and one batch whose loss is NaN.
"""

import importlib.util
import json
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.integration.test_commands import Commands
from tests.small import SMALL, SMALL_PHANTOMS

ARGUMENTS = (
    *SMALL,
    *SMALL_PHANTOMS,
    *("dataset.root=phantoms", "dataset.store=store", "dataset.volumes_per_batch=1"),
    *("trainer.max_steps=8", "trainer.log_every_n_steps=1", "trainer.precision=32-true"),
    *("callbacks.checkpoint.every=2", "callbacks.retention.every=1", "logger=csv"),
    *("task.finetune.flip.probability=0.5", "task.finetune.robust.probability=0.3"),
    *("evaluation.max_new_tokens=2", "evaluation.controls=[]", "dataset.n_test=4"),
)
# 4 volumes an update, 6 in all: 2 updates an epoch. This batch of update 5 is the second process's.
NAN = 21


@dataclass(frozen=True)
class Row:
    """A strategy: its arguments and what share of weights and moments each process holds."""

    arguments: tuple[str, ...]
    weights: float = 1
    moments: float = 1
    accumulate: int = 2
    processes: int = 2
    kills: tuple[tuple[str, int], ...] = (("finetune", 7),)


ON_CPU = ("trainer.accelerator=cpu", "trainer.devices=2")
# Epochs end after two updates, checkpoints are written every two: some kills lie at both.
MANY = (("align", 1), ("finetune", 4), ("finetune", 7))
ROWS = {
    "one": Row(("trainer=cpu",), accumulate=4, processes=1, kills=MANY),
    "ddp": Row(("trainer=ddp", *ON_CPU)),
    "fsdp": Row(("trainer=fsdp", *ON_CPU, "trainer.strategy.gather=float32"), 0.5, 0.5),
    "zero2": Row(
        (
            *("trainer=zero2", *ON_CPU, "trainer.precision=null"),
            "trainer.plugins=[{_target_: tasks.precision.ZeroPrecision, precision: 32-true}]",
        ),
        moments=0.5,
    ),
}
STRATEGIES = [name for name in ROWS if name != "one"]


class Ranks(Commands):
    """train.py as the processes of a row."""

    def train(self, row: str, name: str, *more: str, **faults) -> subprocess.CompletedProcess:
        if row == "zero2" and importlib.util.find_spec("deepspeed") is None:
            pytest.skip("DeepSpeed is not installed: `make` said why")
        setting = ROWS[row]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"FAULTS": json.dumps(faults), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        shared |= {"WORLD_SIZE": str(setting.processes), "NODE_RANK": "0"}
        ranks = [str(i) for i in range(setting.processes)]
        accumulate = f"trainer.accumulate_grad_batches={setting.accumulate}"
        return self(
            "tests/integration/rank.py", f"name={name}", *ARGUMENTS, *setting.arguments,
            accumulate, *more, ranks=[shared | {"RANK": i, "LOCAL_RANK": i} for i in ranks],
        )  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Ranks:
    return Ranks(tmp_path_factory.mktemp("strategies"))


@pytest.fixture(scope="module")
def trained(ranks):
    """The folder of a row's uninterrupted run, with what it said as `.said`."""
    done: dict[str, Path] = {}

    def run(row: str) -> Path:
        if row not in done:
            result = ranks.train(row, row, nan=NAN)
            assert result.returncode == 0, result.stderr[-3000:]
            for number in range(ROWS[row].processes):
                held = ranks.folder / f"held.{number}.json"
                shutil.move(held, ranks.folder / "outputs" / row / held.name)
            (ranks.folder / "outputs" / row / "said.txt").write_text(result.stderr)
            done[row] = ranks.folder / "outputs" / row
        return done[row]

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    files = [run / "export" / f"{name}.safetensors" for name in ("model", "pruner")]
    return {f"{file.stem}.{k}": v for file in files for k, v in load_file(file).items()}


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return pd.read_csv(run / "metrics.csv")["loss"].dropna().tolist()


def largest_difference(a: Path, b: Path) -> float:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


@pytest.mark.parametrize("row", STRATEGIES)
def test_two_processes_train_what_one_trains(row, trained) -> None:
    """Weights move by up to 2.4e-3 in eight updates."""
    assert largest_difference(trained(row), trained("one")) < 1e-5


@pytest.mark.parametrize("row", STRATEGIES)
def test_losses_are_those_of_ddp(row, trained) -> None:
    ours, theirs = (losses(trained(name)) for name in (row, "ddp"))
    assert len(ours) == 8 and ours == pytest.approx(theirs, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("row", STRATEGIES)
def test_all_processes_answer_what_one_answers(row, ranks, trained) -> None:
    """Each about volumes of its own; together, in one file, what eval.py says of the export."""
    run, name = trained(row), "predictions.jsonl"
    parts = [rows_of(run / f"predictions.rank{number}.jsonl") for number in range(2)]
    volumes = [{one["volume"] for one in part} for part in parts]
    assert all(parts) and not volumes[0] & volumes[1]
    done = ranks(
        *("eval.py", f"name={row}_alone", f"ckpt={run / 'export'}", "evaluation.controls=[]"),
        *(word for word in ARGUMENTS if word.startswith(("dataset.", "evaluation."))),
        *SMALL_PHANTOMS, "dataset.n_test=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    whole = rows_of(run / name)
    assert whole == rows_of(ranks.folder / "outputs" / f"{row}_alone" / name)
    assert len(whole) == sum(map(len, parts))


@pytest.mark.parametrize("row", ROWS)
def test_a_batch_of_nan_skips_one_update(row, trained) -> None:
    said = (trained(row) / "said.txt").read_text()
    warned = "gradient not finite (step "
    assert said.count(f"{warned}5") == said.count(warned) == 1
    assert all(bool(value.isfinite().all()) for value in weights(trained(row)).values())


@pytest.mark.parametrize("row", ROWS)
def test_each_process_holds_its_share(row, trained) -> None:
    whole = json.loads((trained("one") / "held.0.json").read_text())
    for held in (json.loads(p.read_text()) for p in trained(row).glob("held.*.json")):
        assert held["weights"] == pytest.approx(ROWS[row].weights * whole["weights"], rel=0.05)
        assert held["moments"] == pytest.approx(ROWS[row].moments * whole["moments"], rel=0.05)


@pytest.mark.parametrize("row", ROWS)
def test_killed_and_damaged_it_resumes_bitwise(row, ranks, trained) -> None:
    """Its newest checkpoint is damaged after the last kill, so that the one before serves."""
    whole, cut = trained(row), ranks.folder / "outputs" / f"{row}_cut"
    for kill in ROWS[row].kills:
        assert ranks.train(row, cut.name, nan=NAN, kill=kill).returncode == 9
    newest = cut / "checkpoints" / "last.ckpt"
    part = newest if newest.is_file() else next(newest.rglob("*_optim_states.pt"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    resumed = ranks.train(row, cut.name, nan=NAN)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "is damaged" in resumed.stderr
    assert largest_difference(cut, whole) == 0
    assert losses(cut) == losses(whole)
    name = "predictions.jsonl"
    assert (cut / name).read_text() == (whole / name).read_text()


def test_two_processes_hand_a_run_to_one(ranks, trained) -> None:
    """In the middle of an epoch; an update stays what it was."""
    every = "callbacks.checkpoint.every=1"
    assert ranks.train("ddp", "handed", every, nan=NAN, kill=("finetune", 5)).returncode == 9
    done = ranks.train("one", "handed", every, nan=NAN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert largest_difference(ranks.folder / "outputs" / "handed", trained("one")) < 1e-5


def test_zero2_trains_in_bfloat16_as_it_is_shipped(ranks, trained) -> None:
    """Losses are those of float32 but for rounding."""
    ours = ("trainer.plugins=[{_target_: tasks.precision.ZeroPrecision, precision: bf16-true}]",)
    done = ranks.train("zero2", "bf16", *ours, nan=NAN)
    assert done.returncode == 0, done.stderr[-3000:]
    run = ranks.folder / "outputs" / "bf16"
    assert losses(run) == pytest.approx(losses(trained("ddp")), abs=0.05)
    assert {value.dtype for value in weights(run).values()} == {torch.bfloat16}
