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

from photon.phantoms.layout import (
    ATTENUATIONS,
    BY_NAME,
    EFFUSION,
    LESION_OFFSET,
    NAMES,
    SIZES,
    VERSION,
    PhantomConfig,
)
from photon.phantoms.paint import Canvas, noise, paint_effusion, paint_torso
from photon.phantoms.plan import OrganPlan, Plan, draw_patient, draw_plan


@dataclass(frozen=True)
class Phantom:
    """array int16 HU [D,H,W], labels uint8 [D,H,W], affine 4x4 ((w,h,d,1) to RAS+ mm), all LPS.

    `facts`: {"seed", "organs": {name: {present, size, attenuation, volume_ml, mean_hu, lesions:
    [{radius_mm, hu, denser}]}}, "effusion": {"right", "left"}}; volumes include the lesions,
    mean_hu leaves them out.
    """

    array: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    facts: dict
    names: dict[int, str] = field(default_factory=lambda: dict(NAMES))


def make_phantom(seed: int, config: PhantomConfig | None = None) -> Phantom:
    """Draw and paint one phantom; the same seed and config give the same bits (not in paper)."""
    config, rng = config or PhantomConfig(), _rng(seed)
    return _paint(rng, draw_plan(rng, config), config, seed)


def make_patient(seed: int, config: PhantomConfig | None = None) -> tuple[Phantom, Phantom]:
    """Baseline and follow-up of one patient, see `draw_patient`; as reproducible as a phantom."""
    config, rng = config or PhantomConfig(), _rng(seed)
    first, second = draw_patient(rng, config)
    return _paint(rng, first, config, seed), _paint(rng, second, config, seed)


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([VERSION, seed])))


def _paint(rng: np.random.Generator, plan: Plan, config: PhantomConfig, seed: int) -> Phantom:
    canvas = Canvas(
        hu=np.empty(config.shape, dtype=np.int16),
        labels=np.zeros(config.shape, dtype=np.uint8),
        scale=config.scale * (1 + plan.pose.grow),
        shift=plan.pose.shift,
        angle=float(np.deg2rad(plan.pose.turn)),
    )
    paint_torso(canvas)
    organs = {
        organ.organ.name: _paint_organ(canvas, organ, config, plan.effusion)
        for organ in plan.organs
    }
    if config.noise_hu > 0:
        canvas.hu += noise(rng, config.shape, config.noise_hu)
        np.maximum(canvas.hu, -1024, out=canvas.hu)
    _measure(canvas, config, organs)
    facts = {"seed": int(seed), "organs": organs, "effusion": plan.effusion}
    return Phantom(canvas.hu, canvas.labels, phantom_affine(config), facts)


def _paint_organ(
    canvas: Canvas, plan: OrganPlan, config: PhantomConfig, effusion: dict[str, bool]
) -> dict:
    """Paint one organ with its lesions, after the fluid around it, and return its facts."""
    if not plan.present:
        return {"present": False, "size": None, "attenuation": None, "lesions": []}
    name, label = plan.organ.name, plan.organ.id
    shape = canvas.place(plan.centre, plan.axes)
    side = name.removeprefix("lung_")
    if effusion.get(side):
        paint_effusion(canvas, shape, EFFUSION[side])
    canvas.paint(shape, label, round(plan.hu))
    lesions = []
    for lesion in plan.lesions:
        ball = canvas.place(plan.centre + lesion.offset, (lesion.radius,) * 3)
        hu = round(plan.hu + lesion.hu_step)
        canvas.paint(ball, label + LESION_OFFSET, hu, over=label)
        radius = float(np.mean(ball.axes * config.spacing))
        lesions.append({"radius_mm": round(radius, 1), "hu": hu, "denser": lesion.hu_step > 0})
    return {
        "present": True,
        "size": SIZES[plan.size],
        "attenuation": ATTENUATIONS[plan.attenuation],
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
        fact["volume_ml"] = round(float(total * config.voxel_ml), 1)
        fact["mean_hu"] = round(float(canvas.hu[box][own].mean()), 1) if own.any() else None


def phantom_affine(config: PhantomConfig) -> np.ndarray:
    """LPS voxel order, the grid's middle at the origin: (w, h, d, 1) to RAS+ mm, float64 [4,4]."""
    d, h, w = config.spacing
    affine = np.diag([-w, -h, d, 1.0])
    middle = (np.asarray(config.shape[::-1], dtype=float) - 1.0) / 2.0
    affine[:3, 3] = -affine[:3, :3] @ middle
    return affine
