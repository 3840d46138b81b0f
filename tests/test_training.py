"""Both phases with the real modules, callbacks and data modules, at a size that trains in seconds.

Models and data come from conf/, so that what is tested is what `train.py` runs.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import hydra
import pandas as pd
import pytest
import torch
import yaml

from photon.questions.record import read_records, write_records
from tasks.callbacks import NonFiniteGuard, checkpoint_path
from tasks.entry import CONF
from tasks.finetune import Finetune
from tasks.schema import build_model, check_config, instantiate, to_plain
from tests.small import SMALL, SMALL_PHANTOMS
from train import fit

OPTIONS = (
    *SMALL,
    *SMALL_PHANTOMS,
    "logger=csv",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Folder of the phantoms, and of their prepared volumes."""
    return tmp_path_factory.mktemp("data")


def configure(data: Path, *overrides: str) -> dict:
    where = [f"dataset.root={data / 'phantoms'}", f"dataset.store={data / 'store'}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = hydra.compose("train", [*OPTIONS, *where, *overrides])
    config = to_plain(composed)
    check_config(config)
    return config


def build(config: dict):
    """Model and data of a run, as train.py builds them."""
    torch.manual_seed(config["seed"])
    return build_model(config), instantiate(config["dataset"], "dataset")


def train(config: dict, folder: Path, phase: str = "finetune"):
    """The model after a phase, and its rows of metrics.csv."""
    model, source = build(config)
    fit(config, phase, model, source, folder)
    return model, pd.read_csv(folder / "metrics.csv")


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_phase_1_learns_with_the_patch_embedding_alone(data, tmp_path) -> None:
    config = configure(
        data,
        "trainer.max_steps=60",
        "phases.align=0.2",
        "task.align.optimizer.lr=0.02",
        "dataset.volumes_per_batch=6",
    )
    before = weights(build(config)[0])
    model, log = train(config, tmp_path, "align")
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("visual.patch_embed.proj.weight")}
    # Every batch holds all six volumes with their one report.
    assert len(log) == 12
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    assert not (tmp_path / "retention.parquet").exists()


QWEN3 = ("model=tiny_qwen3", "model.preparation.size=[64,64,64]", "model.checkpointing=true")


@pytest.mark.parametrize("model", [(), QWEN3], ids=["qwen2_5", "qwen3_recomputed"])
def test_phase_2_goes_through_all_stages_and_learns(data, tmp_path, model) -> None:
    """A step at a boundary belongs to the new stage: 0.2, 0.4 and 0.45 of 20 steps."""
    config = configure(
        data,
        *model,
        "trainer.max_steps=20",
        "task.finetune.optimizer.lr=0.003",
        "task.finetune.robust.probability=0.0",  # a perturbed batch would have no answer loss
    )
    before = weights(build(config)[0])
    model, log = train(config, tmp_path)
    frame = pd.read_parquet(tmp_path / "retention.parquet")
    stages = frame.drop_duplicates("step").set_index("step")["stage"]
    assert stages.tolist() == ["off"] * 4 + ["soft"] * 4 + ["hard"] * 12
    off, hard = frame[frame["stage"] == "off"], frame[frame["stage"] == "hard"]
    assert (off["hard_keep"] == 1).all() and off["theta"].isna().all()
    assert (hard["kept_tokens"] < hard["visual_tokens"]).any() and (hard["kept_tokens"] >= 1).all()
    assert (frame["visual_tokens"] == 16).all()
    assert (frame.groupby("step")["n"].sum() == 12).all()
    still = [n for n, w in model.state_dict().items() if torch.equal(before[n], w)]
    assert still == []
    answer = log["loss/answer"]
    assert answer.tail(4).mean() < 0.8 * answer.head(4).mean()


@pytest.mark.parametrize("pruner", ["random", "uniform", "fastv"])
def test_phase_2_trains_under_a_baseline(data, tmp_path, pruner) -> None:
    """Without probabilities there is nothing to soften, to push into the band or to promote."""
    options = ("trainer.max_steps=10", "task.finetune.robust.probability=0.5")
    config = configure(data, *options)
    config["pruner"] = {
        **yaml.safe_load((CONF / f"pruner/{pruner}.yaml").read_text()),
        "keep": 0.25,
    }
    _, log = train(config, tmp_path)
    frame = pd.read_parquet(tmp_path / "retention.parquet").groupby("step")[["stage", "hard_keep"]]
    steps = frame.first()
    assert (
        steps["hard_keep"] == steps["stage"].map({"off": 1.0, "soft": 0.25, "hard": 0.25})
    ).all()
    assert len(steps) == 10 and log["loss"].notna().all() and (log["loss/band"] == 0).all()


def test_nothing_trains_the_pruner_while_pruning_is_off(data, tmp_path) -> None:
    config = configure(
        data,
        "trainer.max_steps=3",
        *(f"callbacks.pruning.{k}=1.0" for k in ("soft", "hard", "flip")),
        "task.finetune.optimizer.weight_decay=0.0",
    )
    before = weights(build(config)[0].pruner)
    model, _ = train(config, tmp_path)
    assert all(torch.equal(before[n], w) for n, w in model.pruner.state_dict().items())


@pytest.fixture
def threads(request):
    """Of torch. With two, an order of addition can depend on which of them comes first."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("cut", "threads", "sampling"),
    [(3, 2, "volumes"), (6, 1, "volumes"), (5, 1, "questions")],
    indirect=["threads"],
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    data, tmp_path, monkeypatch, cut, sampling
) -> None:
    """Checkpoints every 2 of 8 steps; soft from step 2, hard from 4: both cuts cross a boundary."""
    config = configure(
        data,
        "trainer.max_steps=8",
        *("callbacks.checkpoint.every=2", "callbacks.retention.every=1"),
        f"dataset.sampling={sampling}",
        *(
            "callbacks.pruning.soft=0.25",
            "callbacks.pruning.hard=0.5",
            "callbacks.pruning.flip=0.5",
        ),
        *("task.finetune.robust.probability=0.4", "task.finetune.flip.probability=0.4"),
    )
    whole, _ = train(config, tmp_path / "whole")
    step = Finetune.training_step

    def stop(self, batch, batch_index):
        if self.global_step == cut:
            raise KeyboardInterrupt
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(Finetune, "training_step", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(config, tmp_path / "cut")
    written = pd.read_parquet(tmp_path / "cut" / "retention.parquet")
    assert written["step"].max() == cut - 1  # rows beyond the checkpoint, for the odd cut
    resumed, _ = train(config, tmp_path / "cut")

    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    states = [
        torch.load(checkpoint_path(tmp_path / k), weights_only=True) for k in ("whole", "cut")
    ]
    assert states[0]["global_step"] == states[1]["global_step"] == 8
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
    moments = [s["optimizer_states"][0]["state"] for s in states]
    assert moments[0].keys() == moments[1].keys() and moments[0]
    for key, moment in moments[0].items():
        for name, value in moment.items():
            assert torch.equal(value, moments[1][key][name]), (key, name)
    frames = [pd.read_parquet(tmp_path / k / "retention.parquet") for k in ("whole", "cut")]
    pd.testing.assert_frame_equal(*frames)
    logs = [pd.read_csv(tmp_path / k / "metrics.csv") for k in ("whole", "cut")]
    logs = [log[[c for c in log if not c.startswith("perf/")]] for log in logs]
    pd.testing.assert_frame_equal(*logs, check_like=True)
    assert len(logs[0]) == 8


def first_gradients(config: dict, folder: Path, monkeypatch) -> dict[str, torch.Tensor]:
    """Gradients that the first optimiser step uses, before clipping."""
    found: dict[str, torch.Tensor] = {}

    def look(self, trainer, module, optimizer):
        found.update(
            {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        )

    with monkeypatch.context() as patch:
        patch.setattr(NonFiniteGuard, "on_before_optimizer_step", look)
        train(config, folder)
    return found


def test_accumulated_batches_have_the_gradient_of_one(data, tmp_path, monkeypatch) -> None:
    """The surrogate too, whose size does not follow the loss: it reaches the threshold here."""
    options = (
        "trainer.max_steps=1",
        *(f"callbacks.pruning.{k}=0.0" for k in ("soft", "hard", "flip")),
        *("task.finetune.robust.probability=0.0", "task.finetune.flip.probability=0.0"),
        "task.finetune.band.weight=0.0",  # what is left for the predictor is the surrogate
    )
    big = configure(data, *options, "dataset.volumes_per_batch=4")
    halves = configure(
        data, *options, "dataset.volumes_per_batch=2", "trainer.accumulate_grad_batches=2"
    )
    one = first_gradients(big, tmp_path / "one", monkeypatch)
    two = first_gradients(halves, tmp_path / "two", monkeypatch)
    assert one.keys() == two.keys()
    surrogate = [n for n in one if "pruner.predictor" in n and bool(one[n].any())]
    assert surrogate
    for name, gradient in one.items():
        gap = (gradient - two[name]).norm() / gradient.norm().clamp_min(1e-12)
        assert gap < 1e-3, (name, float(gap))


@pytest.mark.parametrize("routing", ["paper", "exclusive"])
def test_every_question_flipped(data, tmp_path, routing) -> None:
    """Eq. 21 adds the flip term to the answer's loss; the released code puts it in its place."""
    config = configure(
        data,
        "trainer.max_steps=4",
        *("callbacks.pruning.soft=0", "callbacks.pruning.hard=0", "callbacks.pruning.flip=0.5"),
        *("task.finetune.robust.probability=0.0", "task.finetune.flip.probability=1.0"),
        f"task.finetune.routing={routing}",
    )
    _, log = train(config, tmp_path)
    early, late = log[log["step"] < 2], log[log["step"] >= 2]
    assert (early["loss/flip"] == 0).all() and (late["loss/flip"] > 0).all()
    assert (early["loss/answer"] > 0).all()
    assert (
        (late["loss/answer"] > 0).all() if routing == "paper" else (late["loss/answer"] == 0).all()
    )
    total = log[["loss/answer", "loss/band", "loss/flip"]].sum(axis=1)
    assert total.to_numpy() == pytest.approx(log["loss"].to_numpy(), rel=1e-5)


def test_every_volume_perturbed(data, tmp_path) -> None:
    """Then neither answers nor band count, and the loss is minus an entropy (Eq. 19)."""
    config = configure(data, "trainer.max_steps=4", "task.finetune.robust.probability=1.0")
    model, log = train(config, tmp_path)
    assert (log["loss/robust"] < 0).all() and (log["loss/answer"] == 0).all()
    assert (log["loss/band"] == 0).all()
    vocabulary = torch.tensor(float(model.backbone.config.text_config.vocab_size))
    assert (log["loss/robust"] >= -vocabulary.log().item()).all()


def test_windows_train_with_perturbed_and_supervised_volumes(data, tmp_path) -> None:
    """Three windows through store, label statistics, perturbation and a step of every stage."""
    config = configure(
        data,
        *("model.vision.in_channels=3", "model.image_mean=[0.48,0.5,0.2]"),
        "model.preparation.windows=[[-1000,1000],[-160,240],[0,600]]",
        "trainer.max_steps=4",
        "callbacks.pruning={soft:0.25,hard:0.5,flip:0.5}",
        *("task=[align,finetune,pointing]", "task.finetune.robust.probability=0.5"),
    )
    before = weights(build(config)[0])
    model, log = train(config, tmp_path)
    name = "backbone.model.visual.patch_embed.proj.weight"
    assert before[name].shape[1] == 3
    moved = (model.state_dict()[name] - before[name]).abs().amax((0, 2, 3, 4))
    assert (moved > 0).all()  # every window
    assert log["loss"].notna().all() and (log["loss/pointing"] > 0).any()


RANKS = """
import hashlib, json, os
from pathlib import Path
import torch
from tasks import callbacks
from train import fit
from tests.test_training import build, digest

config, folder = json.loads(Path({config!r}).read_text()), Path({folder!r})
rank = os.environ.get("LOCAL_RANK", "0")
seen = []
end = callbacks.Throughput.on_train_batch_end
def count(self, trainer, module, *rest):
    seen.append([module.step_counts["questions"], module.stage])
    end(self, trainer, module, *rest)
callbacks.Throughput.on_train_batch_end = count
torch.set_num_threads(1)
model, data = build(config)
if rank == "1":  # only rank 0's start may count
    torch.nn.init.ones_(model.pruner.predictor.mlp[0].weight)
trainer = fit(config, "finetune", model, data, folder)
assert trainer.world_size == 2
(folder / f"rank{{trainer.global_rank}}.json").write_text(json.dumps([digest(model), seen]))
"""


def digest(model) -> str:
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode() + value.contiguous().numpy().tobytes())
    return sha.hexdigest()


def test_two_ranks_with_different_lengths(data, tmp_path, root) -> None:
    """Volumes of 2 to 8 questions: ranks never hold batches of one length, and stay equal."""
    first = configure(data)
    source = build(first)[1]
    records = read_records(source.path("train"), root=source.root, strict=True)[0]
    volumes = sorted({record.volume for record in records})
    uneven = [
        record
        for index, volume in enumerate(volumes)
        for record in [r for r in records if r.volume == volume][: 2 + index]
    ]
    write_records(tmp_path / "uneven.jsonl", uneven)
    config = configure(
        data,
        "trainer.devices=2",
        "trainer.strategy=ddp_find_unused_parameters_true",
        "trainer.precision=32-true",
        "trainer.max_steps=6",
    )
    config["dataset"] = {
        "_target_": "tasks.datamodule.RecordData",
        "train": str(tmp_path / "uneven.jsonl"),
        "root": str(source.root),
        "store": str(data / "store"),
        "volumes_per_batch": 1,
        "questions_per_volume": 8,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(config=str(tmp_path / "config.json"), folder=str(tmp_path)))
    # Lightning picks a free port where none is set.
    own = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_PORT", "MASTER_ADDR")
    environment = {k: v for k, v in os.environ.items() if k not in own}
    environment |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (hash0, seen0), (hash1, seen1) = (
        json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)
    )
    assert hash0 == hash1
    assert [stage for _, stage in seen0] == ["off", "off", "soft", "hard", "hard", "hard"]
    counts = [(a, b) for (a, _), (b, _) in zip(seen0, seen1, strict=True)]
    assert any(a != b for a, b in counts)
    frame = pd.read_parquet(tmp_path / "retention.parquet")
    assert frame.groupby("step")["n"].sum().tolist() == [a + b for a, b in counts]
