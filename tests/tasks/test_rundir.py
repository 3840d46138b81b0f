"""A run directory belongs to one configuration."""

import json

import pytest
from lightning.pytorch import Trainer

from photon.errors import InputError
from tasks.datamodule import RecordData
from tasks.rundir import config_hash, is_finished, open_run, write_status

CONFIG = {"name": "x", "trainer": {"max_steps": 5, "log_every_n_steps": 1}, "size": (1, 2)}


def changed(**trainer) -> dict:
    return {**CONFIG, "trainer": {**CONFIG["trainer"], **trainer}}


def test_the_same_configuration_opens_it_again(tmp_path) -> None:
    folder = open_run(tmp_path / "run", CONFIG)
    assert open_run(folder, {**CONFIG, "size": [1, 2]}) == folder
    assert open_run(folder, changed(log_every_n_steps=9)) == folder


def test_another_configuration_is_refused_with_its_keys(tmp_path) -> None:
    open_run(tmp_path / "run", CONFIG)
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(InputError, match=r"trainer\.max_steps: 5 -> 7") as caught:
        open_run(tmp_path / "run", changed(max_steps=7))
    assert "log_every" not in str(caught.value) and "name=" in str(caught.value)
    with pytest.raises(InputError, match="size"):
        open_run(tmp_path / "run", {k: v for k, v in CONFIG.items() if k != "size"})
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_what_changes_memory_only_may_change(tmp_path) -> None:
    """Not where the other strategy could not read the checkpoints."""
    folder = open_run(tmp_path / "run", changed(devices=1, strategy="auto"))
    ddp = {"_target_": "lightning.pytorch.strategies.DDPStrategy", "gradient_as_bucket_view": True}
    assert open_run(folder, changed(devices=4, strategy=ddp, accelerator="gpu")) == folder
    assert open_run(folder, {**changed(), "model": {"checkpointing": True}}) == folder
    zero = changed(strategy={"_target_": "tasks.zero.DeepSpeedZero"})
    with pytest.raises(InputError, match="checkpoints: 'plain files' -> 'of DeepSpeed'"):
        open_run(folder, zero)


def test_an_update_stays_what_it_was_when_processes_change(tmp_path) -> None:
    def data(volumes: int, accumulate: int) -> RecordData:
        made = RecordData(store=tmp_path, volumes_per_batch=volumes)
        made.trainer = Trainer(
            accelerator="cpu", accumulate_grad_batches=accumulate, logger=False,
            enable_checkpointing=False,
        )  # fmt: skip
        return made

    state = data(1, 8).state_dict()
    data(2, 4).load_state_dict(state)
    with pytest.raises(InputError, match="an update had 8 volumes and has 2 now, with 1 process"):
        data(2, 1).load_state_dict(state)


def test_hash_follows_what_a_run_computes() -> None:
    assert config_hash(CONFIG) == config_hash(changed(log_every_n_steps=3))
    assert config_hash(CONFIG) != config_hash(changed(max_steps=6))


def test_status_and_finish(tmp_path) -> None:
    write_status(tmp_path, state="running", step=3)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "running" and status["step"] == 3 and status["updated"].endswith("Z")
    (tmp_path / "metrics.json").write_text("{}")  # figures are still to come
    assert not is_finished(tmp_path)
    write_status(tmp_path, state="finished")
    assert is_finished(tmp_path)
    (tmp_path / "metrics.json").unlink()
    assert not is_finished(tmp_path)
    assert [p.name for p in tmp_path.glob(".*")] == []
