"""Phase 2 with bf16 weights, as DeepSpeed holds them, on a CPU."""

import pytest
import torch

from photon.errors import InputError
from tests.test_training import configure, data, train, weights  # noqa: F401  (a fixture)

BF16 = ("trainer.precision=null", "trainer.plugins=[{_target_: tasks.precision.BFloat16}]")


def test_bf16_weights_train_through_all_stages(data, tmp_path):  # noqa: F811
    """The saliency, its threshold and the losses stay in float32; nothing becomes not a number."""
    options = ("trainer.max_steps=15", "task.finetune.optimizer.lr=0.003")
    model, log = train(configure(data, *options, *BF16), tmp_path / "half")
    assert all(value.dtype == torch.bfloat16 for value in model.parameters())
    assert all(torch.isfinite(value).all() for value in weights(model).values())
    _, whole = train(configure(data, *options), tmp_path / "whole")
    # The first steps see the same batches with almost the same weights.
    ours, theirs = (frame["loss/answer"].head(3).to_numpy() for frame in (log, whole))
    assert ours == pytest.approx(theirs, rel=0.02)


def test_lightnings_own_plugin_is_refused_with_the_way_out(data, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match=r"trainer.precision=bf16-true .*tasks.precision.BFloat16"):
        train(configure(data, "trainer.precision=bf16-true"), tmp_path)
