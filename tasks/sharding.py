"""Fully sharded training (FSDP2): weights, gradients and moments divided between the processes.

Our loops call the parts of a layer (`layer.self_attn.q_proj`, `layer.mlp`), never the layer, so
that hooks on layers would not fire. The parts of a layer are therefore one group: what is called
first gathers all of it, what is called last gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from photon.errors import InputError
from photon.model.photon import PhotonModel
from tasks.checkpointing import newest_whole


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes; `trainer=fsdp`.

    The checkpoint is one file, assembled on the first process. gather: precision in which layers
    are gathered, `bfloat16` or `float32`; gradients are added up in float32.
    """

    def __init__(self, gather: Literal["bfloat16", "float32"] = "bfloat16"):
        if gather not in ("bfloat16", "float32"):
            raise ValueError(f"trainer.strategy.gather={gather!r}: legal: bfloat16, float32")
        super().__init__(save_distributed_checkpoint=False)
        self.gather = getattr(torch, gather)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """From the newest whole file: Lightning's way goes around `AtomicCheckpointIO` here."""
        return super().load_checkpoint(newest_whole(checkpoint_path), weights_only=True)


def shard(model: PhotonModel, mesh: DeviceMesh, gather: torch.dtype) -> None:
    """Divide a model's weights over the mesh, in place; layers and blocks are gathered one by one.

    What is left (embeddings, head, patch embedding, mergers, pruner) is gathered for a whole pass.
    Raises InputError for a model with adapters.
    """
    if hasattr(model.backbone, "peft_config"):
        raise InputError("task.finetune.lora needs no trainer=fsdp: take trainer=ddp or gpu")
    # The residual stream stays as the engine has it.
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if gather == torch.bfloat16:
        policy = replace(policy, param_dtype=gather, reduce_dtype=torch.float32)
    stock = model.backbone.model
    for layer in [*stock.visual.blocks, *stock.language_model.layers]:
        fully_shard(list(_called(layer)), mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def _called(layer: nn.Module) -> Iterator[nn.Module]:
    """Parts of a layer that the loops call: those of the attention, the MLP and the norms whole."""
    for name, part in layer.named_children():
        if "attn" in name:
            yield from (p for p in part.children() if any(True for _ in p.parameters()))
        else:
            yield part


def whole(model: PhotonModel, build: Callable[[], PhotonModel]) -> PhotonModel:
    """The model, or, where its weights are divided, one from `build` that holds all of them.

    Every process must call it.
    """
    if not isinstance(model, FSDPModule):
        return model
    state, fresh = whole_state(model), build()
    fresh.load_state_dict(state)
    return fresh


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The full weights, on the CPU; every process must ask, since each holds a share."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
        for name, value in model.state_dict().items()
    }
