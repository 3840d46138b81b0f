"""Phase 2 with adapters, as train.py runs it."""

import pytest
import torch

from photon.weights.checkpoints import load_export, save_export
from photon.weights.lora import PROJECTIONS
from tasks.callbacks import checkpoint_path
from tasks.finetune import Finetune
from tests.test_training import build, configure, data, train, weights  # noqa: F401


def test_adapters_train_resume_and_end_in_the_weights(data, tmp_path, monkeypatch) -> None:  # noqa: F811
    """A run cut at step 3 of 6 and resumed equals the whole one; both export stock weights."""
    config = configure(
        data,
        "task=[align,finetune_lora]",
        "task.finetune.lora={r:2,alpha:4,dropout:0.1,save:true}",
        "task.finetune.optimizer.lr=0.01",
        "trainer.max_steps=6",
        "callbacks.checkpoint.every=2",
    )
    before = weights(build(config)[0])
    whole, log = train(config, tmp_path / "whole")
    assert len(log) == 6
    step = Finetune.training_step

    def stop(self, batch, batch_index):
        if self.global_step == 3:
            raise KeyboardInterrupt
        return step(self, batch, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(Finetune, "training_step", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(config, tmp_path / "cut")
    resumed, _ = train(config, tmp_path / "cut")
    after = weights(whole)
    assert after.keys() == before.keys()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, after[name]), name

    own = {name: w for name, w in before.items() if name.startswith(("backbone.", "pruner."))}
    changed = {name for name, weight in own.items() if not torch.equal(weight, after[name])}
    adapted = {n for n in changed if n.rsplit(".", 2)[-2] in PROJECTIONS and "language" in n}
    assert changed - adapted == {
        name for name in own if "patch_embed" in name or name.startswith("pruner.")
    }
    assert len(adapted) == 4 * len(PROJECTIONS)
    for name in adapted:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 2, name

    saved = torch.load(checkpoint_path(tmp_path / "whole"), weights_only=True)
    assert any("lora_A" in name for name in saved["state_dict"])
    assert (tmp_path / "whole" / "adapters" / "adapter_model.safetensors").is_file()
    save_export(whole, tmp_path / "export")
    loaded = load_export(tmp_path / "export").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in after.items())
