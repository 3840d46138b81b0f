"""What a batch is built from beside volumes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """An image, or the sampled frames of a video.

    Attributes:
        pixels: uint8 [T, H, W, 3]; an image has T = 1.
        seconds: between two frames; None for an image.
    """

    pixels: Tensor
    seconds: float | None = None

    @property
    def is_image(self) -> bool:
        return self.seconds is None
