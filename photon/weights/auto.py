"""Makes exports known to Hugging Face's Auto classes, which go by `model_type` in config.json.

An export says `photon_qwen2_5_vl` where the stock checkpoint says `qwen2_5_vl`, and differs in
nothing else: the stock class loads it too, by its name. `import photon` calls `register`, while
Transformers is still being imported: nothing may be imported here that holds a model or a
configuration class.
"""

from typing import Any

from photon.weights.keys import EXPORTED, FAMILY_NAMES


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

    for family in FAMILY_NAMES:
        AutoConfig.register(EXPORTED + family, ExportConfig)
