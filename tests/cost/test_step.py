"""`bench step`: real steps of a small model on this machine."""

import json

import pytest
import torch
import yaml

from photon.commands.cli import main
from photon.cost.step import (
    Case,
    StepSettings,
    make_step,
    parts_of,
    random_batch,
    random_model,
    timed,
)
from tests.helpers import TEXT, VISION

CPU = torch.device("cpu")
QUICK = {"steps": 1, "warmup": 0, "questions": 2, "question": 5, "answer": 3, "prefix": 4}


@pytest.fixture
def files(tmp_path) -> list[str]:
    """A model file behind stock patches and one behind deeper ones, of the same volume."""
    found = []
    for name, depth in (("stock", 2), ("deep", 4)):
        vision = VISION | {"temporal_patch_size": depth}
        spec = {"text": TEXT, "vision": vision, "preparation": {"size": [8, 8, 12]}}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec))
        found.append(str(path))
    return found


def words(**settings) -> list[str]:
    return [f"{key}={value}" for key, value in (QUICK | settings).items()]


@pytest.mark.parametrize("mode", ["train", "prefill"])
def test_cases_stand_beside_each_other(files, tmp_path, capsys, mode) -> None:
    out = tmp_path / "report.json"
    command = ["bench", "step", *words(models=",".join(files), mode=mode, keep=0.5)]
    assert main([*command, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    report = json.loads(out.read_text())
    cases = report["cases"]
    assert [(c["visual_tokens"], c["kept_tokens"]) for c in cases] == [(24, 24), (12, 12), (12, 6)]
    assert [c["stage"] for c in cases] == ["off", "off", "hard"]
    assert all(c["name"] in text and c["seconds"] > 0 for c in cases)
    assert {"encode", "trunk", "select", "tail", "logits"} == set(cases[2]["seconds_forward"])
    # The deeper patches halve the encoder's rows; pruning leaves the encoder alone.
    assert cases[0]["ratios"]["tflop"] == 1 < cases[1]["ratios"]["tflop"]
    assert cases[0]["ratios"]["peak_gpu_gib"] is None  # a CPU's memory is not told apart
    assert report["versions"]["torch"] and report["precision"] == "32-true"


def test_a_training_step_trains_and_a_prefill_does_not(files) -> None:
    spec = yaml.safe_load(open(files[1]))
    for mode in ("train", "prefill"):
        settings, case = StepSettings(mode=mode, **QUICK), Case(files[1], "hard", "sdpa")
        model = random_model(spec, case, settings, CPU, "32-true")
        again = random_model(spec, case, settings, CPU, "32-true")
        batch = random_batch(model, spec, settings)
        assert int((batch.targets != -100).sum()) == 2 * (3 if mode == "train" else 1)
        step = make_step(model, batch, case, settings, "32-true")
        assert len(timed(step, 2, 1, CPU)) == 2
        forward = model.trunk
        assert set(parts_of(model, step, CPU)) == {"encode", "trunk", "select", "tail", "logits"}
        assert model.trunk == forward  # the watch is off again
        pairs = zip(model.backbone.parameters(), again.backbone.parameters(), strict=True)
        moved = [not torch.equal(a, b) for a, b in pairs]
        assert all(moved) if mode == "train" else not any(moved)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares CUDA kernels")
def test_kernels_agree(files, tmp_path) -> None:
    out = tmp_path / "report.json"
    command = words(models=files[1], attention="sdpa,varlen", precision="bf16-true", steps=2)
    assert main(["bench", "step", *command, "--out", str(out)]) == 0
    assert all(case["logits_gap"] < 0.02 for case in json.loads(out.read_text())["cases"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attention": "varlen"}, "model.attention=varlen needs a CUDA device"),
        ({"attention": "fast"}, "legal values are sdpa, flash, varlen"),
        ({"device": "cuda"}, "device=cuda: there is no CUDA device here"),
        ({"device": "tpu"}, "device=tpu: legal values"),
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"keep": 0}, "keep=0.0: legal values"),
    ],
)
def test_what_cannot_run_is_named(files, capsys, settings, says) -> None:
    assert main(["bench", "step", *words(models=files[1], **settings)]) == 1
    assert says in capsys.readouterr().err
