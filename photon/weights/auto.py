"""Exports for Hugging Face's Auto classes, which go by the `model_type` in config.json.

An export says `photon_qwen2_5_vl` where the stock checkpoint says `qwen2_5_vl`, and differs in
nothing else: the stock class loads it too, by its name. `import photon` calls `register`, while
Transformers is still being imported: nothing here may import a model or a configuration class.
"""

import json
from pathlib import Path
from typing import Any

PREFIX = "photon_"
FAMILIES = ("qwen2_5_vl", "qwen3_vl")


class ExportConfig:
    """What AutoConfig holds for exports: makes the configuration when one is read."""

    @classmethod
    def from_dict(cls, values: dict[str, Any], **options: Any) -> Any:
        """A `PreTrainedConfig` for which AutoModel finds `PhotonForVolumeQuestions`."""
        from photon.weights.hf import CONFIGS

        return CONFIGS[values["model_type"]].from_dict(values, **options)


def register() -> None:
    """Make the types of exports known to AutoConfig."""
    from transformers.models.auto.configuration_auto import AutoConfig

    for family in FAMILIES:
        AutoConfig.register(PREFIX + family, ExportConfig)


def mark_export(folder: Path) -> None:
    """Give the stock config.json in an export its own `model_type`."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_type"] = PREFIX + config["model_type"]
    path.write_text(json.dumps(config, indent=2) + "\n")
