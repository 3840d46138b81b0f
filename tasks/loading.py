"""The model that `eval.py` asks: an export, or weights that no run of ours has touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from photon.model.photon import PhotonModel
from photon.weights.checkpoints import load_export, replace_pruner, weights_folder
from photon.weights.checks import check_threshold
from photon.weights.device import for_inference
from tasks.schema import instantiate


def load_model(config: dict[str, Any]) -> PhotonModel:
    """The model of an `EvalConfig`, on its device, with the pruner that was chosen, if one was.

    device, dtype and attention of the configuration are in place of those of its `model`.

    Raises InputError where an untrained threshold would choose tokens.
    """
    pruner = instantiate(config["pruner"], "pruner") if config.get("pruner") else None
    dtype = None if config["dtype"] == "auto" else config["dtype"]
    if config.get("model"):
        device, dtype, attention = for_inference(config["device"], dtype, config["attention"])
        own = {"dtype": str(dtype).removeprefix("torch."), "attention": attention, "device": device}
        model = instantiate({**config["model"], **own}, "model", pruner=pruner)
    else:
        model = load_export(config["ckpt"], config["attention"], dtype, config["device"])
        if "pruner" in config:  # pruner=none keeps every token
            replace_pruner(model, pruner)
    if pruner is not None:
        check_threshold(pruner, config["evaluation"]["keep"])
    return model.to(next(model.backbone.parameters()).device).eval()


def weights_of(config: dict[str, Any]) -> list[Path]:
    """Folders whose content the answers depend on."""
    if config["ckpt"] is not None:
        return [Path(config["ckpt"])]
    pretrained = config["model"]["pretrained"]
    return [] if pretrained is None else [weights_folder(pretrained)]
