"""Procedural CT phantoms: a torso whose every organ, lesion and effusion mask is known exactly.

The voxel grid is nibabel "LPS" (ITK "RAI"): array[d, h, w] with d towards the head, h towards the
back and w towards the patient's left, so that the patient's right kidney lies at small w.

One label map holds everything, one id per voxel: organs 1-8, context (aorta, spine) 9-10, the
lesions of organ i at 10 + i, pleural effusions at 19 (right) and 20 (left), all else 0.  The whole
of an organ is therefore {i, 10 + i}; its parenchyma, on which attenuation is measured, is i alone.

Lengths in the layout are voxels of a 112^3 grid and scale with the shape; HU are Hounsfield units.
The sizes, steps and lesion radii follow what a tiny model was measured to learn from 14^3 patches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache

import numpy as np

VERSION = 1
SIZES = ("small", "normal", "large")
ATTENUATIONS = ("low", "normal", "high")
GRID = 112.0


@dataclass(frozen=True)
class Organ:
    """One organ of the layout: centre and semi-axes (d, h, w) in voxels of the 112^3 grid."""

    id: int
    name: str
    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    hu: float
    hu_step: float
    lesion_hu: tuple[float, ...]
    removable: bool = False
    depth_jitter: float = 1.5


# Painted in this order, the first owner of a voxel keeps it, so the lungs give way to the rest.
ORGANS: tuple[Organ, ...] = (
    Organ(3, "heart", (80, 40, 57), (12, 13, 13), 160, 100, (400, -300)),
    Organ(4, "liver", (50, 43, 33), (13, 19, 21), 110, 100, (400, -300)),
    Organ(5, "spleen", (50, 54, 85), (12.5, 12, 11.5), 130, 100, (400, -300), removable=True),
    Organ(6, "kidney_right", (34, 78, 32), (13.5, 10.5, 10.5), 190, 100, (400, -300), True, 5),
    Organ(7, "kidney_left", (34, 78, 80), (13.5, 10.5, 10.5), 190, 100, (400, -300), True, 5),
    Organ(8, "urinary_bladder", (15, 46, 56), (9, 13, 14), 80, 80, (400, -300), removable=True),
    Organ(1, "lung_right", (83, 56, 27), (18.5, 25, 16), -775, 75, (850,)),
    Organ(2, "lung_left", (83, 56, 86), (18.5, 25, 16), -775, 75, (850,)),
)
BY_NAME = {organ.name: organ for organ in ORGANS}
LESION_OFFSET = 10
AORTA, SPINE, EFFUSION = 9, 10, {"right": 19, "left": 20}
NAMES: dict[int, str] = {
    **{organ.id: organ.name for organ in sorted(ORGANS, key=lambda o: o.id)},
    AORTA: "aorta",
    SPINE: "spine",
    **{o.id + LESION_OFFSET: f"{o.name}_lesion" for o in sorted(ORGANS, key=lambda o: o.id)},
    EFFUSION["right"]: "pleural_effusion_right",
    EFFUSION["left"]: "pleural_effusion_left",
}


@dataclass(frozen=True)
class PhantomConfig:
    """What a phantom may look like; each probability is per organ (or side) and independent."""

    shape: tuple[int, int, int] = (112, 112, 112)
    spacing: float = 3.0
    size_factors: tuple[float, float, float] = (0.8, 1.0, 1.22)
    lesion_probabilities: tuple[float, float, float] = (0.4, 0.3, 0.3)
    missing_probability: float = 0.25
    effusion_probability: float = 0.5
    lesion_radius: tuple[float, float] = (6.0, 8.0)
    noise_hu: float = 20.0
    pose_jitter: float = 1.0

    def __post_init__(self) -> None:
        if min(self.shape) < 28 or self.spacing <= 0:
            raise ValueError(
                f"PhantomConfig: shape {self.shape} and spacing {self.spacing} mm are illegal; "
                "each extent must be at least 28 voxels and the spacing above 0"
            )
        if len(self.lesion_probabilities) != 3 or abs(sum(self.lesion_probabilities) - 1) > 1e-6:
            raise ValueError(
                f"PhantomConfig: lesion_probabilities={self.lesion_probabilities} must be three "
                "numbers (0, 1 and 2 lesions) that sum to 1"
            )
        for key in ("missing_probability", "effusion_probability"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise ValueError(f"PhantomConfig: {key}={getattr(self, key)} must lie in [0, 1]")

    def reference(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Per organ: volume_ml and hu limits between the low, normal and high class."""
        voxel_ml = self.spacing**3 / 1000.0
        scale = float(np.prod(np.asarray(self.shape) / GRID))
        low, mid, high = (f**3 for f in self.size_factors)
        ranges = {}
        for organ in ORGANS:
            nominal = 4 / 3 * np.pi * float(np.prod(organ.axes)) * scale * voxel_ml
            volume = (nominal * (low * mid) ** 0.5, nominal * (mid * high) ** 0.5)
            hu = (organ.hu - organ.hu_step / 2, organ.hu + organ.hu_step / 2)
            ranges[organ.name] = {
                "volume_ml": (round(float(volume[0]), 1), round(float(volume[1]), 1)),
                "hu": hu,
            }
        return ranges

    def to_dict(self) -> dict:
        """Plain values plus the generator version, for manifests and hashes."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {**plain, "version": VERSION}


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


@dataclass(frozen=True)
class _Ellipsoid:
    """Centre and semi-axes in voxels, turned by `angle` radians in the (h, w) plane."""

    centre: np.ndarray
    axes: np.ndarray
    angle: float

    def grown(self, factor: float) -> _Ellipsoid:
        return _Ellipsoid(self.centre, self.axes * factor, self.angle)

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
class _Canvas:
    """The two arrays being painted, and the pose that maps layout coordinates to voxels."""

    hu: np.ndarray
    labels: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    angle: float

    def place(self, centre, axes) -> _Ellipsoid:
        """Layout centre and axes to voxels: scaled and turned about the middle, then shifted."""
        middle = GRID / 2
        off = np.asarray(centre, dtype=float) - middle
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = np.array([off[0], cos * off[1] - sin * off[2], sin * off[1] + cos * off[2]])
        return _Ellipsoid(
            (turned + middle + self.shift) * self.scale, np.asarray(axes) * self.scale, self.angle
        )

    def paint(self, shape: _Ellipsoid, label: int, hu: float, over: int = 0) -> None:
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


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    count = int(np.prod(shape))
    words = rng.integers(0, 2**64, size=-(-count // 4), dtype=np.uint64)
    table = np.rint(_normal_table() * sigma).astype(np.int16)
    return table[words.view("<u2")[:count]].reshape(shape)


def _torso(canvas: _Canvas) -> None:
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


def _lesion_shapes(
    rng: np.random.Generator, organ: _Ellipsoid, count: int, config: PhantomConfig, keep_high: bool
) -> list[_Ellipsoid]:
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
        shapes.append(_Ellipsoid(centre, np.full(3, radius), 0.0))
    return shapes


def _paint_effusion(canvas: _Canvas, lung: _Ellipsoid, label: int) -> None:
    """Fluid (10 HU) in the lower back part of the pleural space, painted before the lung."""
    pleura = lung.grown(1.1)
    box, mask = pleura.mask(canvas.labels.shape)
    d, h, _ = pleura.coordinates(box)
    mask &= (0.75 * h - 0.66 * d > 0.36) & (canvas.labels[box] == 0)
    canvas.labels[box][mask] = label
    canvas.hu[box][mask] = 10


def _paint_organ(
    canvas: _Canvas, rng: np.random.Generator, organ: Organ, config: PhantomConfig, effusion: bool
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
        _paint_effusion(canvas, shape, EFFUSION[organ.name.removeprefix("lung_")])
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


def _measure(canvas: _Canvas, config: PhantomConfig, organs: dict) -> None:
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
    canvas = _Canvas(
        hu=np.empty(config.shape, dtype=np.int16),
        labels=np.zeros(config.shape, dtype=np.uint8),
        scale=size / GRID * (1 + 0.02 * config.pose_jitter * grow),
        shift=2.0 * config.pose_jitter * move,
        angle=float(np.deg2rad(4.0) * config.pose_jitter * turn),
    )
    _torso(canvas)
    effusion = {side: bool(rng.random() < config.effusion_probability) for side in EFFUSION}
    organs = {}
    for organ in ORGANS:
        fluid = organ.name.startswith("lung_") and effusion[organ.name.removeprefix("lung_")]
        organs[organ.name] = _paint_organ(canvas, rng, organ, config, fluid)
    if config.noise_hu > 0:
        canvas.hu += _noise(rng, config.shape, config.noise_hu)
        np.maximum(canvas.hu, -1024, out=canvas.hu)
    _measure(canvas, config, organs)
    facts = {"seed": int(seed), "organs": organs, "effusion": effusion}
    return Phantom(canvas.hu, canvas.labels, phantom_affine(config), facts)
