"""Validation while it trains: what it says, and that training does not notice it."""

from types import SimpleNamespace

import hydra
import pandas as pd
import pytest
import torch

from photon.evaluation.evaluator import Evaluator
from photon.evaluation.metrics import exact_match
from photon.questions.record import Record
from tasks.callbacks import StepSeed, checkpoint_path
from tasks.checkpointing import read_plain
from tasks.entry import CONF
from tasks.schema import build_model, check_config, instantiate, to_plain
from tasks.validation import Validation, yes_and_no, yes_no_values
from tests.small import SMALL, SMALL_PHANTOMS
from train import fit

OPTIONS = (
    *SMALL, *SMALL_PHANTOMS, "dataset.n_val=2", "logger=csv", "trainer.precision=32-true",
    "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false", "trainer.max_steps=6",
    "callbacks.checkpoint.every=3", "callbacks.validation.every=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def configure(data, *overrides):
    where = [f"dataset.root={data / 'phantoms'}", f"dataset.store={data / 'store'}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = to_plain(hydra.compose("train", [*OPTIONS, *where, *overrides]))
    check_config(config)
    return config


def train(config, folder):
    torch.manual_seed(config["seed"])
    model, source = build_model(config), instantiate(config["dataset"], "dataset")
    fit(config, "finetune", model, source, folder)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run with validation: folder and weights."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(configure(data), folder)


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_training_does_not_notice_it(data, whole, tmp_path):
    """Bit for bit the same weights and the same retention of every training step."""
    folder, weights = whole
    without = train(configure(data, "callbacks.validation=null"), tmp_path)
    assert equal(weights, without)
    frames = [pd.read_parquet(one / "retention.parquet") for one in (folder, tmp_path)]
    pd.testing.assert_frame_equal(*frames)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_the_curve_and_the_best_weights_are_written(whole):
    folder, _ = whole
    log = pd.read_csv(folder / "metrics.csv").set_index("step")
    curve = log[[c for c in log if c.startswith("val/")]].dropna(how="all")
    assert curve.index.tolist() == [1, 3, 5]
    named = {"loss", "accuracy", "keep", "evidence_kept", "no_pruning/loss", "no_pruning/accuracy"}
    assert {f"val/{name}" for name in named} <= set(curve) and "val/no_pruning/keep" not in curve
    assert any(name.startswith("val/accuracy/") for name in curve)
    assert curve["val/keep"].between(0, 1).all() and curve["val/loss"].gt(0).all()
    best = read_plain(folder / "checkpoints" / "best.ckpt")
    first_best = 2 * (int(curve["val/accuracy"].argmax()) + 1)
    assert best["global_step"] == first_best and "optimizer_states" not in best


def test_a_resumed_run_is_the_uninterrupted_one(data, whole, tmp_path, monkeypatch):
    """Cut between two validations; then weights, curve and best weights are those of the whole."""
    folder, weights = whole
    seed = StepSeed.on_train_batch_start

    def cut(self, trainer, *rest):
        if trainer.global_step == 4:
            raise SystemExit("cut")
        seed(self, trainer, *rest)

    with monkeypatch.context() as cutting:
        cutting.setattr(StepSeed, "on_train_batch_start", cut)
        with pytest.raises(SystemExit):
            train(configure(data), tmp_path)
    assert read_plain(checkpoint_path(tmp_path))["global_step"] == 3
    assert equal(weights, train(configure(data), tmp_path))
    logs = [pd.read_csv(one / "metrics.csv").set_index("step") for one in (folder, tmp_path)]
    curves = [log[[c for c in log if c.startswith("val/")]].dropna(how="all") for log in logs]
    pd.testing.assert_frame_equal(*curves)
    both = [read_plain(one / "checkpoints" / "best.ckpt") for one in (folder, tmp_path)]
    assert both[0]["global_step"] == both[1]["global_step"]
    assert equal(both[0]["state_dict"], both[1]["state_dict"])


def test_the_best_weights_are_taken_on_request_and_a_run_stops_early(data, tmp_path):
    """Losses can only grow where the learning rate tears the weights apart."""
    config = configure(
        data, "callbacks.best={monitor:val/loss,mode:min,take:true}",
        "callbacks.validation.every=1",
        "task.finetune.optimizer.lr=3.0", "task.finetune.vision_lr=3.0", "task.finetune.warmup=0.9",
        "+callbacks.stop={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/loss}",
        "+callbacks.stop.patience=1", "trainer.max_steps=40",
    )  # fmt: skip
    taken = train(config, tmp_path)
    curve = pd.read_csv(tmp_path / "metrics.csv").set_index("step")["val/loss"].dropna()
    best = read_plain(tmp_path / "checkpoints" / "best.ckpt")
    assert best["global_step"] == curve.idxmin() + 1 < curve.index.max() + 1 < 40
    assert equal(taken, {k.removeprefix("model."): v for k, v in best["state_dict"].items()})
    last = read_plain(checkpoint_path(tmp_path))["state_dict"]
    assert not equal(best["state_dict"], last)


def test_accuracy_is_that_of_greedy_decoding(data, tmp_path):
    """On the packaged model, question by question, pruned and not, with what was kept."""
    where = [f"dataset.root={tmp_path / 'phantoms'}", f"dataset.store={tmp_path / 'store'}"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        names = (*SMALL_PHANTOMS, "dataset.n_val=2", "dataset.n_train=1", "pruner.theta=0.5")
        config = to_plain(hydra.compose("train", [*names, *where, "dataset.workers=0"]))
    model, source = build_model(config), instantiate(config["dataset"], "dataset")
    source.bind(model)
    module = SimpleNamespace(
        model=model, reads=("questions",), device=torch.device("cpu"), stage="hard"
    )
    context = SimpleNamespace(forward_context=torch.no_grad)
    trainer = SimpleNamespace(
        datamodule=source, global_rank=0, world_size=1, is_global_zero=True,
        precision_plugin=context,
    )  # fmt: skip
    validation = Validation(volumes=2, volumes_per_batch=1)
    validation.setup(trainer, module, "fit")
    values = validation.validate(trainer, module)
    evaluator = Evaluator(
        model.eval(), source.records("val"), source.store, tmp_path / "run", source.root
    )
    for name, prefix in (("photon", "val/"), ("no_pruning", "val/no_pruning/")):
        rows = evaluator.run([name])[name]
        right = [exact_match(row["prediction"], row["answer"]) for row in rows]
        assert 0.1 < values[f"{prefix}accuracy"] == pytest.approx(sum(right) / len(right))
        if name == "photon":
            kept = [row["kept_tokens"] / row["visual_tokens"] for row in rows]
            assert values["val/keep"] == pytest.approx(sum(kept) / len(kept)) and max(kept) < 1
            covered = [row["coverage"] for row in rows if row["coverage"] is not None]
            assert values["val/evidence_kept"] == pytest.approx(sum(covered) / len(covered))


def test_yes_and_no_by_their_probability():
    told = [(0.9, 1), (0.4, 1), (0.6, 0), (0.1, 0), (0.2, 0)]
    values = {k.removeprefix("val/yes_no/"): v for k, v in yes_no_values(told).items()}
    assert values["sensitivity"] == 1 / 2 and values["specificity"] == pytest.approx(2 / 3)
    assert values["auroc"] == pytest.approx(5 / 6)  # one of six pairs is the wrong way round
    assert values["f1"] == pytest.approx(2 * 0.5 * 0.5 / (0.5 + 0.5))
    assert 0 < values["calibration_error"] < 1
    assert yes_no_values([(0.3, 1)]) == {} and yes_no_values([]) == {}


class Words:
    """A collate whose prompts are an answer's first letter."""

    def prompt(self, record):
        return SimpleNamespace(suffix=[7, ord(record.answer[0])], answer_start=1)


def choice(letter, **choices):
    return Record("a", "", "?", letter, choices=choices, answer_letter=letter)


@pytest.mark.parametrize(
    "record, found",
    [
        (Record("a", "", "?", "no"), ("y", "n", 0)),
        (Record("a", "", "?", "Yes"), ("Y", "N", 1)),
        (Record("a", "", "?", "left"), None),
        (choice("B", A="No", B="Yes."), ("B", "A", 1)),
        (choice("A", A="Left", B="Right"), None),
        (choice("C", A="No", B="Yes", C="Unclear"), None),
    ],
)  # fmt: skip
def test_which_questions_are_answered_by_yes_or_no(record, found):
    told = yes_and_no(record, Words())
    assert told == (found and (ord(found[0]), ord(found[1]), found[2]))
