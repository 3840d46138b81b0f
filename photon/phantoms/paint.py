"""Painting phantoms: ellipsoids on a canvas of HU and labels, the torso around them, and noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from photon.phantoms.layout import AORTA, GRID, SPINE


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and semi-axes in voxels, turned by `angle` radians in the (h, w) plane."""

    centre: np.ndarray
    axes: np.ndarray
    angle: float

    def grown(self, factor: float) -> Ellipsoid:
        return Ellipsoid(self.centre, self.axes * factor, self.angle)

    def box(self, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        half = np.array(
            [
                self.axes[0],
                np.hypot(self.axes[1] * cos, self.axes[2] * sin),
                np.hypot(self.axes[1] * sin, self.axes[2] * cos),
            ]
        )
        low = np.maximum(np.floor(self.centre - half).astype(int), 0)
        high = np.minimum(np.ceil(self.centre + half).astype(int) + 1, shape)
        return tuple(slice(int(a), int(max(a, b))) for a, b in zip(low, high, strict=True))

    def coordinates(self, box: tuple[slice, ...]) -> list[np.ndarray]:
        """Offsets from the centre in units of the semi-axes, shapes [d,1,1], [1,h,w], [1,h,w]."""
        d, h, w = (np.arange(s.start, s.stop, dtype=np.float32) for s in box)
        d, h, w = d - self.centre[0], h - self.centre[1], w - self.centre[2]
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned_h = (cos * h[:, None] + sin * w[None, :]) / self.axes[1]
        turned_w = (-sin * h[:, None] + cos * w[None, :]) / self.axes[2]
        return [(d / self.axes[0])[:, None, None], turned_h[None], turned_w[None]]

    def mask(self, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], np.ndarray]:
        box = self.box(shape)
        d, h, w = self.coordinates(box)
        return box, d * d + (h * h + w * w) <= 1.0


@dataclass
class Canvas:
    """The two arrays being painted, and the pose that maps layout coordinates to voxels."""

    hu: np.ndarray
    labels: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    angle: float

    def place(self, centre, axes) -> Ellipsoid:
        """Layout centre and axes to voxels: turned about the middle, shifted, then scaled."""
        off = np.asarray(centre, dtype=float) - GRID / 2
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = np.array([off[0], cos * off[1] - sin * off[2], sin * off[1] + cos * off[2]])
        middle = np.asarray(self.labels.shape) / 2
        return Ellipsoid(
            (turned + self.shift) * self.scale + middle, np.asarray(axes) * self.scale, self.angle
        )

    def paint(self, shape: Ellipsoid, label: int, hu: float, over: int = 0) -> None:
        """Paint where the label map holds `over`."""
        box, mask = shape.mask(self.labels.shape)
        mask &= self.labels[box] == over
        self.labels[box][mask] = label
        self.hu[box][mask] = hu


@cache
def _normal_table() -> np.ndarray:
    """float32 [65536]: quantiles of the standard normal; indexing it with random 16-bit numbers is
    several times faster than drawing normals and identical on every platform."""
    from scipy.special import ndtri

    return ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    count = int(np.prod(shape))
    words = rng.integers(0, 2**64, size=-(-count // 4), dtype=np.uint64)
    table = np.rint(_normal_table() * sigma).astype(np.int16)
    return table[words.view("<u2")[:count]].reshape(shape)


def paint_torso(canvas: Canvas) -> None:
    """Air, skin fat, muscle wall and inner fat, the same in every slice; then aorta and spine."""
    body = canvas.place((GRID / 2, 56, 56), (GRID, 47, 54))
    full = tuple(slice(0, n) for n in canvas.hu.shape)
    _, h, w = body.coordinates(full)
    radius = h * h + w * w
    plane = np.full(radius.shape, -1000, dtype=np.int16)
    label_plane = np.zeros(radius.shape, dtype=np.uint8)
    for limit, hu in ((1.0, -110), (0.9, 50), (0.8, -90)):
        plane[radius <= limit] = hu
    for label, centre, axes, hu in (
        (SPINE, (56, 88, 56), 8.0, 420),
        (AORTA, (56, 69, 59), 4.0, 230),
    ):
        tube = canvas.place(centre, (GRID, axes, axes))
        _, h, w = tube.coordinates(full)
        inside = h * h + w * w <= 1.0
        label_plane[inside] = label
        plane[inside] = hu
    canvas.hu[:] = plane
    canvas.labels[:] = label_plane


def paint_effusion(canvas: Canvas, lung: Ellipsoid, label: int) -> None:
    """Fluid (10 HU) in the lower back part of the pleural space, painted before the lung."""
    pleura = lung.grown(1.1)
    box, mask = pleura.mask(canvas.labels.shape)
    d, h, _ = pleura.coordinates(box)
    mask &= (0.75 * h - 0.66 * d > 0.36) & (canvas.labels[box] == 0)
    canvas.labels[box][mask] = label
    canvas.hu[box][mask] = 10
