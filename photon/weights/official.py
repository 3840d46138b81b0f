"""The authors' released checkpoints, Photon-S1 and S2: what a folder of theirs leaves unsaid.

Source: the released code (alibaba-damo-academy/Photon), which fixes all of this in its scripts.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from photon.pruning.threshold import ThresholdPredictor
from photon.volume.preparation import Preparation
from photon.weights.keys import PRUNER

# The switches of conf/pruner/photon_official.yaml; a test holds the two together.
PRUNER_PROFILE = {
    "direction": "paper",
    "statistics": "all",
    "recentre": True,
    "score_gradient": False,
    "theta_scale": 0.9,
    "as_released": True,
}
DEPTH_STRIDE = 28  # 14 slices a patch at FPS=1, times 2 tokens a second


def predictor_width(config: PreTrainedConfig) -> int:
    """Hidden units of the released threshold predictor."""
    return config.text_config.hidden_size // 8


def pruner_shapes(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what Photon-S2 adds to the backbone."""
    state = ThresholdPredictor(predictor_width(config)).state_dict()
    return {f"{PRUNER}predictor.{name}": tuple(value.shape) for name, value in state.items()}


def official_spec(config: PreTrainedConfig, prunes: bool) -> dict[str, Any]:
    """What an export's photon.json says, for a checkpoint in the official layout.

    S1 has no threshold predictor and prunes nothing. Layers 0 to n/4 - 1 run at full length.
    """
    n = config.text_config.num_hidden_layers
    options = {**PRUNER_PROFILE, "layer": (n // 4) / n, "hidden": predictor_width(config)}
    return {
        "pruner": {"name": "photon", "options": options} if prunes else None,
        "preparation": Preparation.preset("official").to_dict(),
        "depth_stride": DEPTH_STRIDE,
        "slab": 1,
        "image_mean": 0.0,
        "image_std": 1.0,
        "leading_space": True,
        "kv": "compact",
    }
