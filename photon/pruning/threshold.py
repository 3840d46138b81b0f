"""Instance-aware threshold prediction (Eq. 6, 7 and A.1.2).

Shape suffixes: Q questions, J packed (question, visual token) pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photon.packing import Segments
from photon.pruning.saliency import precise

N_FEATURES = 12


def threshold_features(u: Tensor, rho: Tensor, pairs: Segments) -> Tensor:
    """Descriptor z of the saliency distribution, (Q, 12) (Eq. 6, A.1.2).

    Shape of rho: mean, standard deviation, min, max, lower quartile, median. Scale of the raw u:
    mean, standard deviation, min, max. Tails, from sign(u) log(1 + |u|): mean, max. Standard
    deviations are those of the population, as in the released code.
    """
    tails = u.sign() * u.abs().log1p()
    shape = [
        pairs.mean(rho),
        pairs.std(rho),
        pairs.min(rho),
        pairs.max(rho),
        pairs.quantile(rho, 0.25),
        pairs.quantile(rho, 0.5),
    ]
    scale = [pairs.mean(u), pairs.std(u), pairs.min(u), pairs.max(u)]
    return torch.stack([*shape, *scale, pairs.mean(tails), pairs.max(tails)], -1)


class ThresholdPredictor(nn.Module):
    """theta = scale * sigmoid(W2 GELU(W1 z + b1) + b2), (Q, 12) to (Q,) (Eq. 7).

    `scale` 0.9 is the released code's; the paper has none (1.0). Runs in the precision of its
    features, which is float32 whatever the model's, since theta is compared with rho; `as_released`
    of `PhotonPruner` gives them the model's. theta is in float32 at least.
    """

    def __init__(self, hidden: int = 256, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.mlp = nn.Sequential(nn.Linear(N_FEATURES, hidden), nn.GELU(), nn.Linear(hidden, 1))
        for layer in (self.mlp[0], self.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            first, gelu, last = self.mlp
            hidden = gelu(_linear(first, features))
            return self.scale * precise(_linear(last, hidden).squeeze(-1).sigmoid())


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in the precision of x, where a trainer has cast its weights (`trainer=zero2`)."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
