"""The commands `prepare` and `check`; what they do is in `preparing` and `checking`."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from photon.benchmarks.reader import Reader


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `prepare` and `check`."""
    _add_prepare(subparsers)
    _add_check(subparsers)


def _add_prepare(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "prepare",
        help="fill the store with prepared volumes and images",
        description="Prepare volumes for training and inference. What is done is skipped; a scan "
        "that cannot be read is reported, listed in STORE/bad_cases.jsonl and skipped. "
        "dataset=NAME KEY=VALUE ... prepares a published benchmark (docs/benchmarks.md).",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a .nii or .nii.gz file, a DICOM folder, an image or video, a folder to search for "
        "volumes, a .jsonl of questions, or dataset=NAME and settings of its reader",
    )
    parser.add_argument("--split", action="append", help="of a benchmark (default: all; repeat)")
    parser.add_argument("--store", default="outputs/data/store", help="default: %(default)s")
    parser.add_argument("--root", help="folder of the paths in .jsonl files (default: their own)")
    parser.add_argument("--preset", default="paper", help="paper, official or tiny (default paper)")
    parser.add_argument("--orientation", help="ITK letters, for instance RAI")
    parser.add_argument("--spacing", type=float, nargs="+", metavar="MM", help="one, or D H W")
    parser.add_argument("--crop", type=int, nargs="+", metavar="VOXELS", help="one, or D H W")
    parser.add_argument("--size", type=int, nargs="+", metavar="VOXELS", help="one, or D H W")
    parser.add_argument("--hu", type=int, nargs=2, metavar=("LOW", "HIGH"), help="HU range")
    parser.add_argument("--no-antialias", dest="antialias", action="store_false", default=None)
    parser.add_argument("--nan", choices=("reject", "air"), help="voxels that are not finite")
    parser.add_argument(
        "--assume-orientation", metavar="LETTERS", help="for NIfTI files without sform and qform"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="KEY=VALUE",
        help="max_pixels, frames, fps, ... (docs/images.md)",
    )
    parser.add_argument("--workers", type=int, help="processes (default: by cores and memory)")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if any case is bad")
    parser.set_defaults(run=run_prepare)


def _add_check(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "check",
        help="verify a dataset; all errors are collected",
        description="Verify question files and the volumes they name: lines, ids, answers, patient "
        "overlap between the files, readable volumes, plausible HU, label maps on the scan's grid. "
        "Exit code 1 if there is any error.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".jsonl, one file is one split; or dataset=NAME and settings of its reader",
    )
    parser.add_argument("--split", action="append", help="of a benchmark (default: all; repeat)")
    parser.add_argument("--root", help="folder of the paths in the files (default: their own)")
    parser.add_argument("--report", metavar="JSON", help="write all findings here")
    parser.add_argument("--modality", choices=("ct", "mr"), default="ct", help="mr: values not HU")
    parser.add_argument(
        "--same-split", action="store_true", help="the files are one split; patients may repeat"
    )
    parser.add_argument("--no-volumes", action="store_true", help="look at the text only")
    parser.add_argument(
        "--assume-orientation", metavar="LETTERS", help="for NIfTI files without sform and qform"
    )
    parser.add_argument("--workers", type=int, help="processes (default: by cores and memory)")
    parser.set_defaults(run=run_check)


def run_prepare(args: argparse.Namespace) -> int:
    """Exit code 0 unless all cases were bad, or any with --strict."""
    from photon.questions import fill_store
    from photon.volume.preparation import Preparation

    changes = {
        key: value[0:1] * 3 if isinstance(value, list) and len(value) == 1 else value
        for key in ("orientation", "spacing", "crop", "size", "hu", "antialias", "nan")
        if (value := getattr(args, key)) is not None
    }
    if args.assume_orientation is not None:
        changes["assume_orientation"] = args.assume_orientation
    if args.images is not None:
        changes["images"] = _numbers(args.images)
    preparation = Preparation.preset(args.preset, **changes)
    if (reader := _reader(args.inputs, args.root)) is not None:
        from photon.benchmarks.using import prepare_benchmark

        outcome = prepare_benchmark(reader, args.store, preparation, args.split, args.workers)
    else:
        inputs, workers = args.inputs, args.workers
        outcome = fill_store.prepare_all(inputs, args.store, preparation, args.root, workers)
    bad = len(outcome.bad)
    return int(bad > 0 and (args.strict or bad == outcome.cases))


def run_check(args: argparse.Namespace) -> int:
    """Exit code 1 if there is any error."""
    from photon.questions import check_files

    if (reader := _reader(args.files, args.root)) is not None:
        from photon.benchmarks.using import check_benchmark

        volumes = not args.no_volumes
        report = check_benchmark(reader, args.split, volumes, args.workers, args.modality)
    else:
        report = check_files.check_dataset(
            args.files,
            root=args.root,
            modality=args.modality,
            splits=not args.same_split,
            volumes=not args.no_volumes,
            assume_orientation=args.assume_orientation,
            workers=args.workers,
        )
    if args.report:
        check_files.write_report(report, args.report)
    return check_files.print_report(report)


def _numbers(words: list[str]) -> dict[str, float]:
    """{"frames": 8} of ["frames=8"]."""
    from photon.errors import InputError

    found = {}
    for word in words:
        key, _, text = word.partition("=")
        try:
            found[key] = float(text) if "." in text else int(text)
        except ValueError:
            raise InputError(f"--images {word}: write KEY=NUMBER, such as frames=8") from None
    return found


def _reader(words: list[str], root: str | None) -> "Reader | None":
    """The benchmark reader of "dataset=NAME KEY=VALUE ...", or None where files are named."""
    from photon.errors import InputError

    if not any(word.startswith("dataset=") for word in words):
        return None
    if wrong := [word for word in words if "=" not in word]:
        raise InputError(f"{wrong[0]}: beside dataset=NAME write settings as KEY=VALUE")
    settings = dict(word.split("=", 1) for word in words)
    from photon.benchmarks.registry import build_reader

    return build_reader(settings if root is None else {"root": root, **settings})
