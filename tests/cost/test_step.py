"""`bench step`: real passes of a small model on this machine."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from photon.commands.cli import main
from photon.cost.growth import growth_fit, stock_loss
from photon.cost.step import Case, measure, parts_of, peak_memory, with_pruner
from tasks.bench import MODES
from tasks.entry import compose
from tasks.plan import random_model, runs_of
from tests.small import SMALL

CPU = torch.device("cpu")
PARTS = {"encode", "trunk", "select", "tail", "logits"}
WORDS = [*SMALL, "plan.question=5", "plan.answer=3", "plan.prefix=4", "plan.keep=0.5"]


def small_model():
    config = compose(WORDS)
    *_, run = runs_of(config).values()
    return random_model(config, run, {}), run


@pytest.mark.parametrize("mode", ["train", "prefill"])
def test_cases_stand_beside_each_other(tmp_path, capsys, mode) -> None:
    out = tmp_path / "report.json"
    deep = "model.vision.temporal_patch_size=28 pruner=none"
    cases = ["--case", "pruner=none", "--case", deep, "--case", ""]
    words = [word for word in WORDS if not word.startswith("pruner.")]
    command = ["bench", "step", *words, *cases, "--rounds", "2", "--mode", mode]
    assert main([*command, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    report = json.loads(out.read_text())
    found = report["cases"]
    assert [(c["visual_tokens"], c["kept_tokens"]) for c in found] == [(16, 16), (8, 8), (16, 8)]
    assert [c["stage"] for c in found] == ["off", "off", "hard"]
    assert all(c["name"] in text and c["seconds"] > 0 and c["processor_seconds"] > 0 for c in found)
    assert PARTS == set(found[2]["seconds_forward"])
    assert found[1]["tflop"] < found[0]["tflop"]  # deeper patches halve the encoder's rows
    assert report["versions"]["torch"]


def test_cases_of_one_model_share_its_weights_and_take_turns() -> None:
    model, _ = small_model()
    other = with_pruner(model, None)
    assert model.pruner is not None and other.pruner is None
    assert other.backbone is model.backbone
    order = []
    measure([lambda: order.append("a"), lambda: order.append("b")], CPU, rounds=3)
    assert order == ["a", "b"] * 5  # to warm up, for the memory, and three rounds


def test_a_training_step_has_gradients_and_a_prefill_does_not() -> None:
    model, run = small_model()
    for mode in ("prefill", "train"):
        case = Case("small", model, run.shape, "hard", mode)
        step = case.step()
        step()
        grads = [p.grad is not None for p in model.backbone.parameters()]
        assert all(grads) if mode == "train" else not any(grads)
        forward = model.trunk
        assert set(parts_of(model, step)) == PARTS
        assert model.trunk == forward  # the watch is off again


def test_growth_stands_beside_the_stock_class(tmp_path, capsys) -> None:
    command = ["bench", "growth", *WORDS, "--counts", "1", "3", "--rounds", "1", "--layers", "3"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "growth.json").read_text())
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    names = ["unpruned", "question", "union", "all"]
    own = [(mode, k, name) for mode in ("train", "prefill") for k in (1, 3) for name in names]
    found = [(c["mode"], c["questions"], c["name"]) for c in report["cases"]]
    assert [c for c in found if c[2] != "stock class"] == own
    assert [c for c in found if c[2] == "stock class"] == [(m, 1, "stock class") for m in MODES]
    kept = {c["name"]: c["kept_tokens"] for c in report["cases"]}
    assert kept == {name: 16 if name in ("unpruned", "stock class") else 8 for name in kept}
    assert all(c["seconds"] > 0 < c["processor_seconds"] for c in report["cases"])
    for clock in ("seconds", "processor seconds"):
        assert f"train: {clock} a question" in text


def test_a_line_through_the_counts() -> None:
    """Small counts weigh as much as large ones: 2 s once and 3 s a question, but for one count."""
    exact = {k: {"seconds": 2.0 + 3.0 * k} for k in (1, 4, 16)}
    assert growth_fit(exact, "seconds") == pytest.approx((2, 3, 0), abs=1e-9)
    once, each, off = growth_fit(exact | {8: {"seconds": 29.9}}, "seconds")
    assert off == pytest.approx(abs((once + 8 * each) / 29.9 - 1)) and 0.05 < off < 0.15


@pytest.mark.parametrize("mode", ["train", "prefill"])
def test_the_stock_class_sees_the_same_rows(mode) -> None:
    """Unpruned, one question: the same loss, so the same input and the same weights."""
    model, run = small_model()
    shape = replace(run.shape, questions=1)
    case = Case("one", with_pruner(model, None), shape, "off", mode)
    with torch.no_grad():
        torch.testing.assert_close(stock_loss(case)(), case.loss(case.batch()))


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is Linux's")
def test_peak_memory_is_that_of_the_step() -> None:
    def step(mib: int):
        return lambda: torch.ones(mib * 2**18).sum()

    small, large = peak_memory(step(32), CPU), peak_memory(step(256), CPU)
    assert 250 < 1024 * large < 300  # the kernel counts pages roughly
    assert 26 < 1024 * small < 76
    assert 26 < 1024 * peak_memory(step(32), CPU) < 76  # nothing is left of the large one


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model.attention=varlen", "model.attention=varlen needs a CUDA device"),
        ("model.attention=fast", "model.attention: 'fast' is not"),
        ("plan.keep=0", "plan.keep: 0 is not"),
    ],
)
def test_what_cannot_run_is_named(capsys, word, says) -> None:
    assert main(["bench", "step", *WORDS, "--case", word]) == 1
    assert says in capsys.readouterr().err
