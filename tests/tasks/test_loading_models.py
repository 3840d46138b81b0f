"""What eval.py asks, and what a run resumes from."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from photon.errors import InputError
from photon.pruning.its import PhotonPruner
from photon.weights.checkpoints import save_export
from tasks.align import Align
from tasks.loading import load_model, weights_of
from tasks.schema import EvalConfig, check_config, to_plain
from tests.test_configs import compose


def evaluation(*overrides: str) -> dict:
    config = to_plain(compose(*overrides, name="eval"))
    check_config(config, EvalConfig)
    return config


def test_pruning_is_attached_to_weights_of_others_by_one_flag() -> None:
    """Table 7: the packaged weights, which no pruner was trained with."""
    with pytest.raises(InputError, match="no trained threshold"):
        load_model(evaluation("model=tiny", "pruner=photon"))
    config = evaluation("model=tiny", "pruner=photon", "evaluation.keep=0.47")
    model = load_model(config)
    assert isinstance(model.pruner, PhotonPruner) and not model.training
    assert [path.name for path in weights_of(config)] == ["tiny"]
    assert load_model(evaluation("model=tiny")).pruner is None


def test_a_pruner_replaces_the_exports_own_or_is_left_out(tmp_path) -> None:
    model = load_model(evaluation("model=tiny", "pruner=photon", "pruner.theta=0.5"))
    save_export(model, tmp_path)
    ckpt = f"ckpt={tmp_path}"
    assert load_model(evaluation(ckpt)).pruner.theta == 0.5
    assert load_model(evaluation(ckpt, "pruner=none")).pruner is None
    other = load_model(evaluation(ckpt, "pruner=uniform"))
    assert type(other.pruner).__name__ == "UniformPruner"
    assert weights_of(evaluation(ckpt)) == [tmp_path]


def test_a_run_does_not_resume_from_other_volumes() -> None:
    task = Align(load_model(evaluation("model=tiny")), partial(torch.optim.AdamW, lr=1e-3))
    checkpoint: dict = {}
    task.on_save_checkpoint(checkpoint)
    task.on_load_checkpoint(checkpoint)
    task.model.preparation = replace(task.model.preparation, hu=(-500, 500))
    with pytest.raises(InputError, match=r"hu=\[-500, 500\] \(trained with \[-1000, 1000\]\)"):
        task.on_load_checkpoint(checkpoint)
