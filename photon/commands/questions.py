"""The command `questions`: a question file from CTs and their label maps."""

import argparse
import os
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `questions`."""
    parser = subparsers.add_parser(
        "questions",
        help="make questions with verified answers from CTs and label maps",
        description="Ask about existence, size, attenuation, counts, location and sides; answers "
        "are computed from the voxels. A named structure without a voxel counts as absent.",
    )
    parser.add_argument("--ct", nargs="+", required=True, metavar="FILE", help="CT volumes in HU")
    parser.add_argument(
        "--labels", nargs="+", required=True, metavar="FILE", help="one label map per CT, in order"
    )
    parser.add_argument("--out", required=True, metavar="JSONL", help="question file to write")
    parser.add_argument(
        "--names", metavar="JSON", help='{"5": "liver"} (default: the TotalSegmentator classes)'
    )
    parser.add_argument(
        "--reference",
        metavar="JSON",
        help='{"liver": {"volume_ml": [900, 1900], "hu": [40, 75]}}: limits of the normal class',
    )
    parser.add_argument("--root", help="folder that paths are written relative to (default: OUT's)")
    parser.add_argument("--per-volume", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--forms", nargs="+", default=["choice", "free"], metavar="FORM")
    parser.add_argument("--subtasks", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--split", help="written into every record")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file and print a count per subtask; returns 0. Raises InputError on bad input."""
    from collections import Counter

    from photon.errors import InputError
    from photon.questions.from_masks import Asking, generate_questions
    from photon.questions.label_names import TOTALSEGMENTATOR
    from photon.questions.record import write_records
    from photon.questions.templates import SUBTASKS

    if len(args.ct) != len(args.labels):
        raise InputError(
            f"--ct names {len(args.ct)} files and --labels {len(args.labels)}; give one label map "
            "per CT, in the same order"
        )
    names = _names(args.names) if args.names else TOTALSEGMENTATOR
    reference = _json(args.reference) if args.reference else None
    try:
        asking = Asking(args.per_volume, args.forms, args.subtasks or SUBTASKS)
    except ValueError as error:
        raise InputError(str(error)) from error
    root = Path(args.root) if args.root else Path(args.out).parent
    records = []
    for number, (ct, labels) in enumerate(zip(args.ct, args.labels), start=1):
        hu, ids, affine = read_pair(ct, labels, names)
        made = generate_questions(
            hu, ids, affine, names,
            asking=asking, reference=reference, seed=args.seed,
            prefix=f"{number:04d}" if len(args.ct) > 1 else None,
            volume=_relative(ct, root), labels=_relative(labels, root),
            extra={"split": args.split} if args.split else {},
        )  # fmt: skip
        print(f"[{number}/{len(args.ct)}] {ct}: {len(made)} questions")
        records += made
    if not records:
        raise InputError("no question could be made; check that --names fits the label maps' ids")
    write_records(args.out, records)
    counts = Counter(record.subtask for record in records)
    print(f"{args.out}: " + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    return 0


def read_pair(ct: str, labels: str, names: dict[int, str]):
    """(HU float32 [D,H,W], ids [D,H,W], affine) of a CT and its label map on one grid.

    Raises InputError where the grids differ; warns once about ids without a name.
    """
    import warnings

    import numpy as np

    from photon.volume.geometry import check_grid
    from photon.volume.reader import read_labels, read_volume

    scan, ids = read_volume(ct), read_labels(labels)
    check_grid(ids, scan.grid, ct)
    unknown = sorted(set(np.unique(ids.array).tolist()) - set(names) - {0})
    if unknown:
        warnings.warn(f"{labels}: ids {unknown} have no name and are left out", stacklevel=2)
    return scan.array, ids.array, scan.affine


def _relative(path: str, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _json(path: str) -> dict:
    import json

    from photon.errors import InputError

    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give a JSON file") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def _names(path: str) -> dict[int, str]:
    from photon.errors import InputError

    content = _json(path)
    try:
        names = {int(label): str(name) for label, name in content.items()}
    except ValueError:
        raise InputError(f'{path}: keys must be label ids, such as {{"5": "liver"}}') from None
    if len(set(names.values())) < len(names) or min(names, default=1) < 1:
        raise InputError(f"{path}: ids start at 1 and every id needs a name of its own")
    return names
