"""Overlay montage: which parts of a volume were kept for a question.

Shape suffixes: D H W voxels, d h w tokens (14x28x28 voxels). The grid is the prepared volume's own:
d towards the head, h towards the back, w towards the patient's left, so an axial picture has the
patient's right on its left, as radiologists read it. The volume must not be flipped (`flip_x`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from photon.evaluation.coverage import TOKEN, token_coverage
from photon.files import replacing

OUTLINE, MASK, INK = "#7b3ff2", "#00a896", "#2b2d42"
WHITEN = 0.80  # share of white mixed into dropped tokens
SOFT_TISSUE = (-160.0, 240.0)  # HU: width 400, level 40
AIR = -500.0  # HU: a token with less than 1 % above it is empty
PLATE = {"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1.2}
TINT = colormaps["plasma"]
WIDTH = 11.0  # inches
DPI = 130


@dataclass(frozen=True)
class _Plane:
    """A slice direction: the axis cut, the axes of rows and columns, and how it is labelled."""

    name: str
    axis: int
    rows: int
    columns: int
    head_up: bool


AXIAL = _Plane("axial", 0, 1, 2, False)
CORONAL = _Plane("coronal", 1, 0, 2, True)


def overlay_figure(
    hu: np.ndarray,
    keep: np.ndarray,
    title: str,
    labels: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    slices: int = 4,
    window: tuple[float, float] = SOFT_TISSUE,
    token: tuple[int, int, int] = TOKEN,
) -> Figure:
    """Axial and coronal slices with dropped tokens whitened and kept regions outlined.

    hu [D, H, W]; keep bool [d, h, w] (or flat); title: the first line is bold (the question), the
    rest plain (the answer). labels [D, H, W]: nonzero is outlined as the evidence. scores [d, h, w]
    tint the kept tokens. spacing: mm per voxel of (D, H, W), for the aspect. The slices lie where
    most tokens were kept, as far apart as the kept region allows.
    """
    keep, scores = _on_grid(hu.shape, token, keep, scores)
    if labels is not None and labels.shape != hu.shape:
        raise ValueError(f"labels of shape {labels.shape} do not fit the volume {hu.shape}")
    body = _body_tokens(hu, keep.shape, token)
    box = _bounds(body, token)
    planes = (AXIAL, CORONAL)
    weight = (keep & body).astype(float)
    if labels is not None:
        weight += (token_coverage(labels != 0, [1], token) > 0) & body
    picks = [pick_slabs(weight, plane.axis, slices) for plane in planes]
    columns = max(len(p) for p in picks)
    sizes = [(e - s) * mm for (s, e), mm in zip(box, spacing, strict=True)]
    ratios = [sizes[p.rows] / sizes[p.columns] for p in planes]
    right = 0.99 if scores is None else 0.905
    cell = WIDTH * (right - 0.01) / columns * 0.985
    head, foot = 0.25 + 0.26 * len(_title_lines(title)), 0.45
    height = head + foot + cell * sum(ratios) + 0.08
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    grid = figure.add_gridspec(
        2, columns, height_ratios=ratios, left=0.01, right=right, top=1 - head / height,
        bottom=foot / height, wspace=0.02, hspace=0.03,
    )  # fmt: skip
    norm = None if scores is None else Normalize(float(scores.min()), float(scores.max()) + 1e-9)
    for row, (plane, slabs) in enumerate(zip(planes, picks, strict=True)):
        for column, slab in enumerate(slabs):
            ax = figure.add_subplot(grid[row, column])
            index = _slice_in_slab(labels, plane.axis, slab, token)
            _draw(ax, plane, index, hu, keep, labels, scores, norm, spacing, box, window, token)
    _write_title(figure, title)
    _legend(figure, keep, body, labels)
    if norm is not None:
        ax = figure.add_axes((right + 0.015, foot / height + 0.06, 0.013, 0.6))
        bar = figure.colorbar(ScalarMappable(norm, TINT), cax=ax)
        bar.set_label("score", size=9)
        bar.ax.tick_params(labelsize=8)
    return figure


def save_overlay(
    path: str | Path,
    hu: np.ndarray,
    keep: np.ndarray,
    title: str,
    labels: np.ndarray | None = None,
    **options,
) -> Path:
    """Write the overlay montage as a picture (PNG by its name) and return its path.

    Arguments as in `overlay_figure`. The file appears whole or not at all.
    """
    path = Path(path)
    figure = overlay_figure(hu, keep, title, labels, **options)
    with replacing(path) as new:
        figure.savefig(new, dpi=DPI, format=path.suffix.lstrip(".") or "png")
    return path


def _on_grid(
    shape: Sequence[int],
    token: tuple[int, int, int],
    keep: np.ndarray,
    scores: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    grid = tuple(s // t for s, t in zip(shape, token, strict=True))
    if any(s % t for s, t in zip(shape, token, strict=True)):
        raise ValueError(f"volume of shape {tuple(shape)} does not divide into tokens of {token}")
    keep = np.asarray(keep, dtype=bool)
    if keep.size != np.prod(grid):
        raise ValueError(f"keep has {keep.size} tokens, but the volume has a grid of {grid}")
    if scores is not None:
        scores = np.asarray(scores, dtype=np.float64).reshape(grid)
    return keep.reshape(grid), scores


def _body_tokens(hu: np.ndarray, grid: tuple[int, ...], token: tuple[int, int, int]) -> np.ndarray:
    """Bool [d, h, w]: tokens that hold more than air; all of them in an empty volume."""
    d, h, w = grid
    blocks = (np.asarray(hu) > AIR).reshape(d, token[0], h, token[1], w, token[2])
    body = blocks.mean(axis=(1, 3, 5)) > 0.01
    return body if body.any() else np.ones(grid, dtype=bool)


def _bounds(body: np.ndarray, token: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Voxel bounds (start, end) per axis of the body's tokens."""
    box = []
    for axis, size in enumerate(token):
        found = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append((int(found[0]) * size, int(found[-1] + 1) * size))
    return box


def pick_slabs(weight: np.ndarray, axis: int, count: int) -> list[int]:
    """Up to `count` token slabs along an axis, in order, by weight [d, h, w] and distance.

    The first is the heaviest; each next one maximises weight x distance to the chosen, with the
    distance capped, so that neither neighbours nor far empty slabs crowd the rest out. Evenly
    spaced if there is no weight at all.
    """
    total = weight.sum(axis=tuple(a for a in range(3) if a != axis)).astype(float)
    count = min(count, total.size)
    if not total.any():
        return sorted({int(i) for i in np.linspace(0, total.size - 1, count + 2)[1:-1].round()})
    chosen = [int(total.argmax())]
    cap = max(1.0, np.count_nonzero(total) / (2 * count))
    while len(chosen) < count:
        distance = np.min([np.abs(np.arange(total.size) - c) for c in chosen], axis=0)
        gain = (total + 1e-3) * np.minimum(distance, cap)
        chosen.append(int(gain.argmax()))
    return sorted(chosen)


def _slice_in_slab(
    labels: np.ndarray | None, axis: int, slab: int, token: tuple[int, int, int]
) -> int:
    """The voxel slice of a slab: where the evidence is largest, else the middle."""
    start = slab * token[axis]
    if labels is not None:
        part = np.take(labels, range(start, start + token[axis]), axis=axis) != 0
        area = part.sum(axis=tuple(a for a in range(3) if a != axis))
        if area.any():
            return start + int(area.argmax())
    return start + token[axis] // 2


def _draw(
    ax: Axes,
    plane: _Plane,
    index: int,
    hu: np.ndarray,
    keep: np.ndarray,
    labels: np.ndarray | None,
    scores: np.ndarray | None,
    norm: Normalize | None,
    spacing: Sequence[float],
    box: Sequence[tuple[int, int]],
    window: tuple[float, float],
    token: tuple[int, int, int],
) -> None:
    """One slice, in mm; rows run downwards (towards the back or, with head_up, the feet)."""
    tokens = keep.take(index // token[plane.axis], axis=plane.axis)
    low, high = window
    grey = np.clip((np.asarray(hu).take(index, axis=plane.axis) - low) / (high - low), 0, 1)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    kept = tokens.repeat(token[plane.rows], axis=0).repeat(token[plane.columns], axis=1)
    if scores is not None and norm is not None:
        tint = TINT(norm(scores.take(index // token[plane.axis], axis=plane.axis)))[..., :3]
        tint = tint.repeat(token[plane.rows], axis=0).repeat(token[plane.columns], axis=1)
        rgb = np.where(kept[..., None], 0.68 * rgb + 0.32 * tint, rgb)
    rgb = np.where(kept[..., None], rgb, (1 - WHITEN) * rgb + WHITEN)
    mm = spacing[plane.rows], spacing[plane.columns]
    extent = (0, rgb.shape[1] * mm[1], rgb.shape[0] * mm[0], 0)
    ax.imshow(rgb, extent=extent, interpolation="bilinear", origin="upper")
    if labels is not None:
        evidence = np.asarray(labels).take(index, axis=plane.axis) != 0
        if evidence.any() and not evidence.all():
            ys, xs = (np.arange(n) + 0.5 for n in evidence.shape)
            ax.contour(xs * mm[1], ys * mm[0], evidence, [0.5], colors=MASK, linewidths=1.3)
    steps = token[plane.rows] * mm[0], token[plane.columns] * mm[1]
    inner, outer = token_edges(tokens)
    ax.add_collection(LineCollection(_scaled(inner, steps), colors=OUTLINE, lw=0.5, alpha=0.35))
    ax.add_collection(LineCollection(_scaled(outer, steps), colors=OUTLINE, lw=1.7))
    rows, columns = box[plane.rows], box[plane.columns]
    ends = (rows[0] * mm[0], rows[1] * mm[0])
    ax.set_xlim(columns[0] * mm[1] - 1, columns[1] * mm[1] + 1)
    ax.set_ylim(ends if plane.head_up else ends[::-1])
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    text = {"transform": ax.transAxes, "fontsize": 8, "color": INK, "bbox": PLATE}
    ax.text(0.015, 0.5, "R", ha="left", va="center", **text)
    ax.text(0.985, 0.5, "L", ha="right", va="center", **text)
    ax.text(0.015, 0.985, f"{plane.name} {index}", ha="left", va="top", **text)


def token_edges(keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of kept tokens of a slice [r, c], as segments [E, 2, (row, column)] in token units.

    The first array holds edges between two kept tokens, the second those of the kept region's rim.
    """
    padded = np.pad(keep, 1)
    inner, outer = [], []
    for axis in (0, 1):
        before = padded[:-1, 1:-1] if axis == 0 else padded[1:-1, :-1]
        after = padded[1:, 1:-1] if axis == 0 else padded[1:-1, 1:]
        for mask, store in ((before & after, inner), (before ^ after, outer)):
            start = np.argwhere(mask)
            end = start + ([0, 1] if axis == 0 else [1, 0])
            store.append(np.stack([start, end], axis=1))
    return np.concatenate(inner), np.concatenate(outer)


def _scaled(edges: np.ndarray, steps: tuple[float, float]) -> np.ndarray:
    """Segments in token units as (x, y) in mm."""
    return (edges * np.asarray(steps))[..., ::-1]


def _title_lines(title: str) -> list[str]:
    lines = []
    for i, part in enumerate(title.splitlines() or [""]):
        lines += textwrap.wrap(part, 95 if i == 0 else 115) or [""]
    return lines


def _write_title(figure: Figure, title: str) -> None:
    bold = len(textwrap.wrap(title.splitlines()[0], 95)) if title.strip() else 0
    for i, line in enumerate(_title_lines(title)):
        style = {"fontsize": 13, "fontweight": "bold"} if i < bold else {"fontsize": 11}
        y = 1 - (0.1 + 0.26 * i) / figure.get_figheight()
        figure.text(0.012, y, line, va="top", color=INK, **style)


def _legend(figure: Figure, keep: np.ndarray, body: np.ndarray, labels: np.ndarray | None) -> None:
    count, empty = int(keep.sum()), int((keep & ~body).sum())
    text = f"kept: {count} of {keep.size} tokens ({100 * count / keep.size:.0f} %)"
    text += f", {empty} of them empty air" if empty else ""
    handles = [
        Line2D([], [], color=OUTLINE, lw=2, label=text),
        Patch(facecolor="#e6e6e6", edgecolor="#c9ccd3", label="whitened: dropped"),
    ]
    if labels is not None and np.any(labels):
        handles.append(Line2D([], [], color=MASK, lw=1.6, label="mask of the organ asked about"))
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=3, frameon=False,
        fontsize=10,
    )  # fmt: skip
