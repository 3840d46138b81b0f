"""Another pruner on trained weights: training-free pruning (Table 7), or other switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from photon.errors import InputError
from photon.pruning.base import Keep, Pruner
from photon.pruning.its import PhotonPruner

if TYPE_CHECKING:
    from photon.model.photon import PhotonModel


def replace_pruner(model: PhotonModel, pruner: Pruner | None) -> None:
    """Put `pruner` on a loaded model in place of its own; None makes it keep every token.

    It takes over the weights of one of the same shape, so that a trained threshold can be asked
    under other switches.
    """
    if pruner is not None and model.pruner is not None:
        ours, theirs = pruner.state_dict(), model.pruner.state_dict()
        if {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}:
            pruner.load_state_dict(theirs)
    model.pruner = pruner


def check_threshold(pruner: Pruner | None, keep: Keep) -> None:
    """Raise InputError where a threshold that nothing has trained would decide what is kept."""
    if not isinstance(pruner, PhotonPruner) or keep is not None or pruner.keep is not None:
        return
    if pruner.theta is None and not pruner.is_trained:
        raise InputError(
            "pruner=photon has no trained threshold for these weights: give a budget "
            "(evaluation.keep=0.47 or --keep 0.47), or a constant threshold (pruner.theta=0.5)"
        )
