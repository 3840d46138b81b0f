"""train.py as one process of several, with the faults that FAULTS names (JSON).

kill: [phase, step]: end without a word before the first batch of a step. nan: the number of a batch
over all ranks, whose loss becomes NaN. DeepSpeed runs on a CPU here: Lightning only lets it where
CUDA is, and tells processes apart by the number of their device. What this process holds of
weights and moments at the end goes to held.RANK.json.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import deepspeed

from tasks.callbacks import StepSeed
from tasks.finetune import Finetune

ROOT = Path(__file__).resolve().parents[2]
FAULTS = json.loads(os.environ.get("FAULTS", "{}"))


def deepspeed_on_a_cpu() -> None:
    # `import deepspeed.comm.torch as ...` gives torch itself, which deepspeed.comm also holds.
    communication = importlib.import_module("deepspeed.comm.torch")
    communication.build_shm_op = lambda: None  # compiled for shared memory; gloo does without
    deepspeed.CUDAAccelerator = CPUAccelerator
    CPUAccelerator.get_parallel_devices = staticmethod(
        lambda devices: [torch.device("cpu", i) for i in range(devices)]
    )


def kill(trainer, module) -> None:
    if [type(module).__name__.lower(), trainer.global_step] == FAULTS.get("kill"):
        os._exit(9)


def tell_what_is_held(self, trainer, module) -> None:
    optimizer = trainer.optimizers[0]
    state = getattr(optimizer, "optimizer", optimizer).state.values()
    held = {
        "weights": sum(_local(p).numel() for p in module.parameters()),
        "moments": sum(_local(s["exp_avg"]).numel() for s in state),
    }
    Path(f"held.{trainer.global_rank}.json").write_text(json.dumps(held))


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def broken_batch(module, loss: torch.Tensor) -> torch.Tensor:
    trainer = module.trainer
    number = trainer.fit_loop.total_batch_idx * trainer.world_size + trainer.global_rank
    return loss * float("nan") if number == FAULTS.get("nan") else loss


step, seed = Finetune.training_step, StepSeed.on_train_batch_start
Finetune.training_step = lambda self, batch, i: broken_batch(self, step(self, batch, i))
StepSeed.on_train_batch_start = lambda self, *rest: (kill(*rest[:2]), seed(self, *rest))
StepSeed.on_train_end = tell_what_is_held
torch.set_num_threads(1)
if "trainer=zero2" in sys.argv:
    deepspeed_on_a_cpu()
runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
