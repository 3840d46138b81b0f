"""The folder of static files that `python -m photon view RUN` makes.

index.html reads data.js (everything but voxels) and loads volumes/ and labels/ as scripts when a
case needs them, so that the folder works from a disk and on any web server.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from photon.files import write_bytes, write_text
from photon.questions.record import Record
from photon.study.kept import voxel_size
from photon.view import drawing
from photon.view.cases import Answers, case_of, title_of, volumes_of
from photon.volume.store import VolumeStore

ASSETS = Path(__file__).parent / "assets"
MOST = 150e6  # bytes of volumes, before they are drawn in less detail
DENSITY = 0.85  # bytes a voxel takes as text, measured on phantoms and on a real CT
Say = Callable[[int, int], None]


def write_page(
    out: Path,
    records: Sequence[Record],
    answers: Answers,
    store: VolumeStore,
    root: Path,
    token: Sequence[int],
    about: dict[str, Any],
    say: Say | None = None,
) -> Path:
    """Write the page of a run to the folder `out`, and return the path of its index.html.

    token: voxels of a visual token. about: `title` and what else the page's head shows. Volumes are
    averaged over 2, 3 or 4 voxels a side where their files would be larger than MOST together.
    """
    sources = volumes_of(records, root)
    by = detail(len(sources), store.preparation.size)
    places = {name: i for i, name in enumerate(sources)}
    for folder in ("volumes", "labels", "thumbs"):
        (out / folder).mkdir(parents=True, exist_ok=True)

    def draw(item: tuple[str, tuple[Path, Path | None]]) -> dict[str, Any]:
        name, (path, labels) = item
        return write_volume(out, places[name], name, path, labels, store, token, by)

    volumes = []
    with ThreadPoolExecutor(2) as pool:  # compression leaves the interpreter to others
        for done, told in enumerate(pool.map(draw, sources.items()), start=1):
            volumes.append(told)
            if say is not None:
                say(done, len(sources))
    cases = []
    for record in records:
        place = places.get(record.volumes[-1])
        grid = [] if place is None else volumes[place]["grid"]
        cases.append(case_of(record, answers, grid, store.preparation.flip_x) | {"volume": place})
    conditions = [{"name": name, "title": title_of(name)} for name in answers]
    data = {"mode": "run", **about, "conditions": conditions, "volumes": volumes, "cases": cases}
    write_text(out / "data.js", f"const PHOTON = {json.dumps(data)};\n")
    for file in ASSETS.iterdir():
        shutil.copyfile(file, out / file.name)
    return out / "index.html"


def detail(volumes: int, size: Sequence[int]) -> int:
    """Voxels a side that become one, so that all volumes fit into MOST bytes; at most 4."""
    full = volumes * float(np.prod(size)) * DENSITY
    return next((by for by in (1, 2, 3) if full / by**3 <= MOST), 4)


def write_volume(
    out: Path,
    place: int,
    name: str,
    path: Path,
    labels: Path | None,
    store: VolumeStore,
    token: Sequence[int],
    by: int,
) -> dict[str, Any]:
    """Write a volume's files; returns what the page knows of it before it loads them."""
    hu, affine = store.load_hu(path), np.array(store.info(path)["affine"])
    window = drawing.window_of(hu)
    strip = drawing.thumbnails(
        hu, token, voxel_size(store.preparation, hu.shape), window or drawing.THUMB_WINDOW
    )
    write_bytes(out / "thumbs" / f"{place}.jpg", strip)
    small, at = drawing.shrunk(drawing.rounded(hu), affine, by)
    write_text(out / "volumes" / f"{place}.js", drawing.script(f"volumes/{place}", small, at))
    if labels is not None:
        ids, at = drawing.shrunk(store.load_labels(labels, path), affine, by, labels=True)
        write_text(out / "labels" / f"{place}.js", drawing.script(f"labels/{place}", ids, at))
    grid = [n // t for n, t in zip(hu.shape, token, strict=True)]
    return {"name": name, "grid": grid, "labels": labels is not None, "window": window}
