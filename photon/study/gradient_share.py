"""How much of what layer l's queries and keys learn comes from the surrogate. Not in the paper.

Both the answers and the surrogate train them: the answers through attention, the surrogate through
the score (Eq. 5), where `score_gradient` is on. Eq. 13 and 16 normalise, so the surrogate's size
does not follow the loss, and what it amounts to has to be measured.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from photon.batch.batch import VolumeBatch
from photon.losses import answer_loss
from photon.model.photon import PhotonModel


def gradient_shares(
    model: PhotonModel, batch: VolumeBatch, directions: tuple[str, ...]
) -> dict[str, float]:
    """By direction, |gradient that the surrogate adds| / |gradient of the answer loss|.

    Of the query and key projections of layer l, over a batch with answers, with hard pruning and
    tail `question`, in which all directions are defined.
    """
    pruner, config, tail = model.pruner, model.pruner.surrogate, model.pruner.tail
    attention = model.decoder.layers.model.layers[model.cut - 1].self_attn
    weights = [*attention.q_proj.parameters(), *attention.k_proj.parameters()]

    def gradient(**changes) -> Tensor:
        pruner.surrogate = replace(config, **changes)
        answers = model(batch, "hard").answers
        loss = answer_loss(answers.logits, answers.targets, answers.questions).mean()
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])

    pruner.tail = "question"
    try:
        alone = gradient(beta=0.0)
        added = {d: gradient(direction=d) - alone for d in directions}
    finally:
        pruner.surrogate, pruner.tail = config, tail
    return {d: float(value.norm() / alone.norm()) for d, value in added.items()}
