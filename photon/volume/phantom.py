"""Procedural CT phantoms: a torso whose every organ, lesion and effusion mask is known exactly.

The voxel grid is nibabel "LPS" (ITK "RAI"): array[d, h, w] with d towards the head, h towards the
back and w towards the patient's left, so that the patient's right kidney lies at small w.

One label map holds everything, one id per voxel: organs 1-8, context (aorta, spine) 9-10, the
lesions of organ i at 10 + i, pleural effusions at 19 (right) and 20 (left), all else 0.  The whole
of an organ is therefore {i, 10 + i}; its parenchyma, on which attenuation is measured, is i alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from photon.volume.phantom_layout import (
    ATTENUATIONS,
    BY_NAME,
    EFFUSION,
    GRID,
    LESION_OFFSET,
    NAMES,
    ORGANS,
    SIZES,
    VERSION,
    Organ,
    PhantomConfig,
)
from photon.volume.phantom_paint import Canvas, Ellipsoid, noise, paint_effusion, paint_torso


@dataclass(frozen=True)
class Phantom:
    """array int16 HU [D,H,W], labels uint8 [D,H,W], affine 4x4 ((w,h,d,1) to RAS+ mm).

    `facts`: {"seed", "organs": {name: {present, size, attenuation, volume_ml, mean_hu, lesions:
    [{radius_mm, hu, denser}]}}, "effusion": {"right", "left"}}; volumes include the lesions,
    mean_hu leaves them out.
    """

    array: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    facts: dict
    names: dict[int, str] = field(default_factory=lambda: dict(NAMES))


def _lesion_shapes(
    rng: np.random.Generator, organ: Ellipsoid, count: int, config: PhantomConfig, keep_high: bool
) -> list[Ellipsoid]:
    """0 to 2 balls inside the organ; two lie in its upper and lower part with a gap between them.

    `keep_high`: stay in the upper half (a lung whose base is under an effusion). A small organ
    that cannot hold two separate visible balls gets one.
    """
    unit = float(np.mean(np.asarray(config.shape) / GRID))
    low, high = (r * unit for r in config.lesion_radius)
    room = float(organ.axes.min())
    if count == 2:
        radius = min(rng.uniform(low * 0.9, high * 0.9), 0.6 * room)
        if organ.axes[0] - radius < radius * 0.62 + unit or keep_high:
            count = 1
    if count == 2:
        offsets = [radius + unit * 1.3, -(radius + unit * 1.3)]
        radii = [radius, radius]
    else:
        radii = [min(rng.uniform(low, high), 0.72 * room)] * count
        sign = 1.0 if keep_high else rng.choice([-1.0, 1.0])
        offsets = [sign * rng.uniform(0.55, 0.8) * max(organ.axes[0] - 0.6 * r, 0) for r in radii]
    shapes = []
    for radius, offset in zip(radii, offsets, strict=True):
        side = rng.uniform(-0.5, 0.5, size=2) * np.maximum(organ.axes[1:] - radius, 0.0)
        centre = organ.centre + np.array([offset, side[0], side[1]])
        shapes.append(Ellipsoid(centre, np.full(3, radius), 0.0))
    return shapes


def _paint_organ(
    canvas: Canvas, rng: np.random.Generator, organ: Organ, config: PhantomConfig, effusion: bool
) -> dict:
    """Draw one organ's state, paint it, and return what was drawn."""
    size, attenuation = int(rng.integers(3)), int(rng.integers(3))
    count = int(rng.choice(3, p=config.lesion_probabilities))
    missing = organ.removable and rng.random() < config.missing_probability
    jitter = rng.uniform(-1, 1, 3) * (organ.depth_jitter, 1.5, 1.5) * config.pose_jitter
    growth = config.size_factors[size] * rng.uniform(0.975, 1.025) * (1.05 if effusion else 1.0)
    hu = organ.hu + (attenuation - 1) * organ.hu_step + rng.uniform(-0.12, 0.12) * organ.hu_step
    shape = canvas.place(np.asarray(organ.centre) + jitter, np.asarray(organ.axes) * growth)
    if missing:
        return {"present": False, "size": None, "attenuation": None, "lesions": []}
    if effusion:
        paint_effusion(canvas, shape, EFFUSION[organ.name.removeprefix("lung_")])
    canvas.paint(shape, organ.id, round(hu))
    lesions = []
    for ball in _lesion_shapes(rng, shape, count, config, keep_high=effusion):
        delta = organ.lesion_hu[int(rng.integers(len(organ.lesion_hu)))]
        if lesions and np.sign(delta) != np.sign(lesions[0]["hu"] - hu):
            delta = next(x for x in organ.lesion_hu if np.sign(x) != np.sign(delta))
        canvas.paint(ball, organ.id + LESION_OFFSET, round(hu + delta), over=organ.id)
        radius_mm = round(float(ball.axes[0]) * config.spacing, 1)
        lesions.append({"radius_mm": radius_mm, "hu": round(hu + delta), "denser": delta > 0})
    return {
        "present": True,
        "size": SIZES[size],
        "attenuation": ATTENUATIONS[attenuation],
        "lesions": lesions,
        "box": shape.box(config.shape),
    }


def _measure(canvas: Canvas, config: PhantomConfig, organs: dict) -> None:
    """Add volume_ml (with lesions) and mean_hu (without), both from the voxels."""
    for name, fact in organs.items():
        label, box = BY_NAME[name].id, fact.pop("box", None)
        fact["volume_ml"], fact["mean_hu"] = 0.0, None
        if box is None:
            continue
        labels = canvas.labels[box]
        own = labels == label
        total = np.count_nonzero(own) + np.count_nonzero(labels == label + LESION_OFFSET)
        fact["volume_ml"] = round(float(total * config.spacing**3 / 1000.0), 1)
        fact["mean_hu"] = round(float(canvas.hu[box][own].mean()), 1) if own.any() else None


def phantom_affine(config: PhantomConfig) -> np.ndarray:
    """LPS voxel order, the grid's middle at the origin: (w, h, d, 1) to RAS+ mm, float64 [4,4]."""
    affine = np.diag([-config.spacing, -config.spacing, config.spacing, 1.0])
    middle = (np.asarray(config.shape[::-1], dtype=float) - 1.0) / 2.0
    affine[:3, 3] = -affine[:3, :3] @ middle
    return affine


def make_phantom(seed: int, config: PhantomConfig | None = None) -> Phantom:
    """Draw and paint one phantom; the same seed and config give the same bits (not in paper)."""
    config = config or PhantomConfig()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([VERSION, seed])))
    size = np.asarray(config.shape)
    grow, move, turn = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3), rng.uniform(-1, 1)
    canvas = Canvas(
        hu=np.empty(config.shape, dtype=np.int16),
        labels=np.zeros(config.shape, dtype=np.uint8),
        scale=size / GRID * (1 + 0.02 * config.pose_jitter * grow),
        shift=2.0 * config.pose_jitter * move,
        angle=float(np.deg2rad(4.0) * config.pose_jitter * turn),
    )
    paint_torso(canvas)
    effusion = {side: bool(rng.random() < config.effusion_probability) for side in EFFUSION}
    organs = {}
    for organ in ORGANS:
        fluid = organ.name.startswith("lung_") and effusion[organ.name.removeprefix("lung_")]
        organs[organ.name] = _paint_organ(canvas, rng, organ, config, fluid)
    if config.noise_hu > 0:
        canvas.hu += noise(rng, config.shape, config.noise_hu)
        np.maximum(canvas.hu, -1024, out=canvas.hu)
    _measure(canvas, config, organs)
    facts = {"seed": int(seed), "organs": organs, "effusion": effusion}
    return Phantom(canvas.hu, canvas.labels, phantom_affine(config), facts)
