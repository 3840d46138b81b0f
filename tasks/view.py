"""The command `view`: cases of a run, or a model and a scan, in the browser.

It reads the data set that a run's configuration names; `photon.commands.cli` finds this module by
its name, since nothing under photon/ imports Hydra.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `view`."""
    parser = subparsers.add_parser(
        "view",
        help="cases with what was kept, in the browser: of a run, or of a model and a scan",
        description="view RUN writes a folder of static files from a run's predictions: open its "
        "index.html from the disk, or put it on a web server. view --model EXPORT VOLUME serves a "
        "page on this machine with a box to ask. docs/view.md shows both.",
    )
    parser.add_argument("target", metavar="RUN | VOLUME", help="a run; with --model a scan")
    parser.add_argument("--out", metavar="FOLDER", help="of the static files (RUN/view)")
    parser.add_argument("--cases", type=int, metavar="N", help="the first N cases only")
    parser.add_argument("--model", metavar="EXPORT", help="export folder to ask")
    parser.add_argument("--store", default="outputs/data/store", help="of --model: %(default)s")
    parser.add_argument("--port", type=int, default=0, help="of --model (any that is free)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of --model: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the page, or serve until interrupted; returns 0. Raises InputError on bad input."""
    from photon.errors import InputError

    if args.model is not None:
        from photon.view.server import serve

        if args.out or args.cases:
            raise InputError("--out and --cases are of a run's page: leave --model out")
        return serve(args.model, args.target, args.store, args.port, args.max_new_tokens)
    if args.cases is not None and args.cases < 1:
        raise InputError(f"--cases {args.cases}: give at least 1")
    folder = Path(args.target)
    page = write_run(folder, Path(args.out) if args.out else folder / "view", args.cases)
    size = sum(file.stat().st_size for file in page.parent.rglob("*") if file.is_file())
    print(f"{page} ({size / 1e6:.0f} MB): open it in a browser")
    return 0


def write_run(folder: Path, out: Path, cases: int | None = None) -> Path:
    """Write the page of a run's folder; returns its index.html."""
    from photon.errors import InputError
    from photon.view.cases import read_answers
    from photon.view.export import how_it_sees
    from photon.view.page import write_page
    from photon.volume.store import VolumeStore
    from tasks.progress import bars
    from tasks.schema import instantiate

    try:
        config = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: no run of train.py or eval.py (run.json cannot be read). To ask about a "
            "scan, add --model EXPORT."
        ) from error
    preparation, token = how_it_sees(Path(config.get("ckpt") or folder / "export"))
    data = instantiate(config["dataset"], "dataset")
    records = data.records(config["evaluation"]["split"])
    given = config.get("predictions")
    given = given[0] if isinstance(given, list) else given
    answers = read_answers(Path(given) if given else folder / "predictions.jsonl", records)
    own = next(iter(answers.values()))
    records = [record for record in records if record.id in own][:cases]
    if not records:
        raise InputError(f"{folder}: none of its answers belongs to a question of its data set")
    store = VolumeStore(data.store_root, preparation)
    about = {"title": config["name"], "figures": figures(folder)}
    with bars() as progress:
        task = progress.add_task("volumes", total=None, figures="")
        return write_page(
            out, records, answers, store, Path(data.root), token, about,
            lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip


def figures(folder: Path) -> list[tuple[str, str]]:
    """(name, value) of what stands in the page's head, from metrics.json."""
    try:
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return []
    interval = metrics["overall"].get("interval")
    found = []
    if interval:
        low, mean, high = (100 * interval[key] for key in ("low", "mean", "high"))
        found.append(("accuracy", f"{mean:.1f} % [{low:.1f}, {high:.1f}]"))
    if metrics["retention"]["keep_ratio"] is not None:
        found.append(("of the tokens kept", f"{100 * metrics['retention']['keep_ratio']:.0f} %"))
    cover = metrics["coverage"].get("mean")
    if cover is not None:
        found.append(("of the organ kept", f"{100 * cover:.0f} %"))
    return found
