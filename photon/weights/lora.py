"""Low-rank adapters on the language model's projections, by peft (not in the paper).

The engine calls the stock projections as modules, so peft's layers take their place in it. Before
anything is exported the adapters are added to the weights, and the stock modules come back. peft is
imported where it is used: it takes seconds, and few runs have adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file
from torch import nn

from photon.annotations import Count, Fraction, Positive
from photon.model.photon import PhotonModel

if TYPE_CHECKING:
    from peft import LoraConfig

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Lora:
    """W + (alpha / r) B A with A (r, in) and B (out, r) trained, W frozen (Hu et al. 2021).

    dropout: on the adapters' input. targets: which projections of every decoder layer. save: write
    the adapters alone as well, in peft's layout.
    """

    r: Count = 16
    alpha: Positive = 32.0
    dropout: Fraction = 0.0
    targets: Sequence[str] = PROJECTIONS
    save: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"lora.r={self.r}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout={self.dropout}: legal values lie in [0, 1)")
        wrong = [name for name in self.targets if name not in PROJECTIONS]
        if wrong or not self.targets:
            raise ValueError(f"lora.targets={wrong}: legal values are {', '.join(PROJECTIONS)}")

    def config(self) -> LoraConfig:
        """The same for peft."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=rf".*language_model\.layers\.\d+\..*\.({'|'.join(self.targets)})",
        )


def add_adapters(model: PhotonModel, lora: Lora) -> None:
    """Put adapters in, of no effect yet (B is zero).

    They, the patch embedding and the pruner train; all else is frozen.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(lora.config(), model.backbone)
    model.requires_grad_(False)
    model.backbone.model.visual.patch_embed.requires_grad_(True)
    if model.pruner is not None:
        model.pruner.requires_grad_(True)
    for name, parameter in model.backbone.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            parameter.requires_grad_(True)


def merge_adapters(model: PhotonModel) -> None:
    """Add the adapters to the weights and put the stock modules back.

    Raises ValueError where an adapter is not finite; without adapters nothing changes.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(n, m) for n, m in model.backbone.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        plain: nn.Module = layer.get_base_layer()
        setattr(model.backbone.get_submodule(parent), child, plain)
    if adapted:
        del model.backbone.peft_config


def save_adapters(model: PhotonModel, lora: Lora, folder: str | Path) -> None:
    """Write the adapters alone: `PeftModel.from_pretrained(stock_model, folder)` reads them.

    The patch embedding and the pruner, which train beside them, are in the export only.
    """
    from peft import get_peft_model_state_dict

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model.backbone)
    rows = {f"base_model.model.{key}": value.contiguous() for key, value in state.items()}
    save_file(rows, folder / "adapter_model.safetensors")
    lora.config().save_pretrained(folder)
