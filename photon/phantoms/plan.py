"""Drawing a phantom before painting it: pose, organs, lesions, and what changes by a follow-up.

Everything is in layout units (voxels of the 112^3 grid), so that two scans of a patient share it
whatever their grids.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from photon.phantoms.layout import EFFUSION, ORGANS, Organ, PhantomConfig

NEW = 0.5  # probability that a present organ without lesions has one at the follow-up
RESOLVED = 0.4  # and that the lesions of an organ are gone by then
GROWTH = (1.3, 1.5)  # ratio of diameters of a lesion that has grown
EFFUSION_CHANGES = 0.5


@dataclass(frozen=True)
class Pose:
    """How the patient lies: relative growth and shift [3] in layout units, turn in degrees."""

    grow: np.ndarray
    shift: np.ndarray
    turn: float


@dataclass(frozen=True)
class Lesion:
    """A ball: offset [3] from its organ's centre, radius, HU above its organ's."""

    offset: np.ndarray
    radius: float
    hu_step: float


@dataclass(frozen=True)
class OrganPlan:
    """One organ: classes 0 to 2 of size and attenuation, and what they amount to."""

    organ: Organ
    present: bool
    size: int
    attenuation: int
    centre: np.ndarray
    axes: np.ndarray
    hu: float
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True)
class Plan:
    """One scan; `effusion` says of which sides there is fluid."""

    pose: Pose
    effusion: dict[str, bool]
    organs: tuple[OrganPlan, ...]


def draw_plan(rng: np.random.Generator, config: PhantomConfig) -> Plan:
    """A phantom of its own."""
    effusion = _draw_effusion(rng, config)
    return _draw(rng, config, effusion, effusion)


def draw_patient(rng: np.random.Generator, config: PhantomConfig) -> tuple[Plan, Plan]:
    """Baseline and follow-up: the same organs, up to a small movement, with changed lesions.

    An organ's lesions are new, resolved, or persist and have grown, shrunk or stayed (two
    lesions of an organ always stay). Lesions lie where neither scan's fluid hides them.
    """
    before = _draw_effusion(rng, config)
    after = {side: v != (rng.random() < EFFUSION_CHANGES) for side, v in before.items()}
    ever = {side: before[side] or after[side] for side in EFFUSION}
    plan = _draw(rng, config, before, ever)
    pairs = [_change(rng, organ, config, ever) for organ in plan.organs]
    moved = Pose(
        plan.pose.grow,
        plan.pose.shift + rng.uniform(-1, 1, 3) * config.pose_jitter,
        plan.pose.turn + rng.uniform(-1, 1) * config.pose_jitter,
    )
    first = replace(plan, organs=tuple(a for a, _ in pairs))
    return first, Plan(moved, after, tuple(b for _, b in pairs))


def _draw_effusion(rng: np.random.Generator, config: PhantomConfig) -> dict[str, bool]:
    return {side: bool(rng.random() < config.effusion_probability) for side in EFFUSION}


def _draw(
    rng: np.random.Generator,
    config: PhantomConfig,
    effusion: dict[str, bool],
    fluid: dict[str, bool],
) -> Plan:
    """`fluid`: sides where lesions must stay high, in the lung above an effusion."""
    grow, move, turn = rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 3), rng.uniform(-1, 1)
    jitter = config.pose_jitter
    pose = Pose(0.02 * jitter * grow, 2.0 * jitter * move, 4.0 * jitter * float(turn))
    organs = tuple(_draw_organ(rng, organ, config, _over_fluid(organ, fluid)) for organ in ORGANS)
    return Plan(pose, effusion, organs)


def _over_fluid(organ: Organ, fluid: dict[str, bool]) -> bool:
    return fluid.get(organ.name.removeprefix("lung_"), False)


def _draw_organ(
    rng: np.random.Generator, organ: Organ, config: PhantomConfig, fluid: bool
) -> OrganPlan:
    size, attenuation = int(rng.integers(3)), int(rng.integers(3))
    count = int(rng.choice(3, p=config.lesion_probabilities))
    missing = organ.removable and rng.random() < config.missing_probability
    jitter = rng.uniform(-1, 1, 3) * (organ.depth_jitter, 1.5, 1.5) * config.pose_jitter
    growth = config.size_factors[size] * rng.uniform(0.975, 1.025) * (1.05 if fluid else 1.0)
    hu = organ.hu + (attenuation - 1) * organ.hu_step + rng.uniform(-0.12, 0.12) * organ.hu_step
    plan = OrganPlan(
        organ,
        not missing,
        size,
        attenuation,
        np.asarray(organ.centre) + jitter,
        np.asarray(organ.axes) * growth,
        hu + config.hu_shift,
        (),
    )
    return plan if missing else replace(plan, lesions=_lesions(rng, plan, count, config, fluid))


def _lesions(
    rng: np.random.Generator, plan: OrganPlan, count: int, config: PhantomConfig, keep_high: bool
) -> tuple[Lesion, ...]:
    """0 to 2 balls inside the organ; two lie in its upper and lower part with a gap between them.

    `keep_high`: stay in the upper half (a lung whose base is under an effusion). A small organ
    that cannot hold two separate visible balls gets one. Two are both brighter or both darker.
    """
    low, high = config.lesion_radius
    room = float(plan.axes.min())
    if count == 2:
        radius = min(rng.uniform(low * 0.9, high * 0.9), 0.6 * room)
        if plan.axes[0] - radius < radius * 0.62 + 1.0 or keep_high:
            count = 1
    if count == 2:
        offsets = [radius + 1.3, -(radius + 1.3)]
        radii = [radius, radius]
    else:
        radii = [min(rng.uniform(low, high), 0.72 * room)] * count
        sign = 1.0 if keep_high else rng.choice([-1.0, 1.0])
        offsets = [sign * rng.uniform(0.55, 0.8) * max(plan.axes[0] - 0.6 * r, 0) for r in radii]
    step = plan.organ.lesion_hu[int(rng.integers(len(plan.organ.lesion_hu)))]
    lesions = []
    for radius, offset in zip(radii, offsets, strict=True):
        side = rng.uniform(-0.5, 0.5, size=2) * np.maximum(plan.axes[1:] - radius, 0.0)
        lesions.append(Lesion(np.array([offset, *side]), float(radius), step))
    return tuple(lesions)


def _change(
    rng: np.random.Generator, plan: OrganPlan, config: PhantomConfig, fluid: dict[str, bool]
) -> tuple[OrganPlan, OrganPlan]:
    """The organ before and after. A change in size alters both radii, so that both fit."""
    later = replace(plan, centre=plan.centre + rng.uniform(-0.5, 0.5, 3) * config.pose_jitter)
    chance = rng.random()
    if not plan.lesions:
        if plan.present and chance < NEW:
            lesions = _lesions(rng, plan, 1, config, _over_fluid(plan.organ, fluid))
            later = replace(later, lesions=lesions)
        return plan, later
    if chance < RESOLVED:
        return plan, replace(later, lesions=())
    direction = int(rng.integers(-1, 2))  # shrunk, stable, grown
    if direction == 0 or len(plan.lesions) == 2:
        return plan, later
    (lesion,), ratio = plan.lesions, rng.uniform(*GROWTH)
    limit = min(0.72 * float(plan.axes.min()), 1.1 * config.lesion_radius[1])
    large = replace(lesion, radius=min(lesion.radius * ratio**0.5, limit))
    small = replace(lesion, radius=large.radius / ratio)
    first, second = (small, large) if direction > 0 else (large, small)
    return replace(plan, lesions=(first,)), replace(later, lesions=(second,))
