"""The model that `eval.py` asks: an export, or weights that no run of ours has touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from photon.model.photon import PhotonModel
from photon.weights.checkpoints import load_export, replace_pruner, weights_folder
from photon.weights.checks import check_threshold
from photon.weights.device import find_device
from tasks.schema import instantiate


def load_model(config: dict[str, Any]) -> PhotonModel:
    """The model of an `EvalConfig`, on its device, with the pruner that was chosen, if one was.

    Raises InputError where an untrained threshold would choose tokens.
    """
    pruner = instantiate(config["pruner"], "pruner") if config.get("pruner") else None
    if config.get("model"):
        model = instantiate(config["model"], "model", pruner=pruner)
    else:
        model = load_export(config["ckpt"])
        if "pruner" in config:  # pruner=none keeps every token
            replace_pruner(model, pruner)
    if pruner is not None:
        check_threshold(pruner, config["evaluation"]["keep"])
    return model.to(find_device(config["device"])).eval()


def weights_of(config: dict[str, Any]) -> list[Path]:
    """Folders whose content the answers depend on."""
    if config["ckpt"] is not None:
        return [Path(config["ckpt"])]
    pretrained = config["model"]["pretrained"]
    return [] if pretrained is None else [weights_folder(pretrained)]
