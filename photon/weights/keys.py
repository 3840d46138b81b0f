"""Names on disk: model types, and a backbone's weights in the layouts that exist."""

from collections.abc import Iterable
from dataclasses import dataclass

FAMILY_NAMES = ("qwen2_5_vl", "qwen3_vl")  # `model_type` of the stock backbones
EXPORTED = "photon_"  # before the `model_type` of an export
PRUNER = "pruner."  # before the names of a `PhotonPruner`'s own weights


@dataclass(frozen=True)
class Layout:
    """Prefixes of stored names and what the modules call them; the first that fits counts."""

    title: str
    prefixes: tuple[tuple[str, str], ...] = ()  # (stored, ours)
    ignored: tuple[str, ...] = ()  # stored names without a use here

    def ours(self, stored: str) -> str:
        """The module's name of a stored weight; an unknown name stays."""
        return _swap(stored, self.prefixes)

    def stored(self, ours: str) -> str:
        """The name under which this layout stores one of the module's weights."""
        return _swap(ours, [(b, a) for a, b in self.prefixes])


def _swap(name: str, prefixes: Iterable[tuple[str, str]]) -> str:
    fits = ((old, new) for old, new in prefixes if name.startswith(old))
    old, new = next(fits, ("", ""))
    return new + name[len(old) :]


# Of Transformers before 4.52, and of the hub's Qwen2.5-VL.
OLDER = (("visual.", "model.visual."), ("model.", "model.language_model."))


def find_layout(stored: Iterable[str], n_layers: int) -> Layout:
    """The layout of a checkpoint with these names, by the names that only one layout has.

    `official` is the authors' Photon-S1 and S2: the older layout with a patch embedding of another
    name, and in S2 the threshold predictor beside the decoder layer of 0-based index n/4 - 1. Its
    `pos_proj` is in the released state but the released code never uses it.
    """
    names = list(stored)
    if any(name.startswith("visual.vision_patch_embed.") or ".atp." in name for name in names):
        atp = f"model.layers.{n_layers // 4 - 1}.atp."
        own = (
            ("visual.vision_patch_embed.", "model.visual.patch_embed."),
            (f"{atp}predictor.", f"{PRUNER}predictor."),
        )
        return Layout("official", own + OLDER, (f"{atp}pos_proj.weight",))
    if any(name.startswith(("model.visual.", "model.language_model.")) for name in names):
        return Layout("current")
    return Layout("older", OLDER)
