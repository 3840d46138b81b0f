"""`python -m photon prepare`: fill the store with prepared volumes, images and videos."""

import argparse
from collections.abc import Sequence

from photon.commands.dataset import add_dataset, add_reader_fields, chosen_reader
from photon.commands.flags import add_fields, given


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `prepare`."""
    parser = subparsers.add_parser(
        "prepare",
        help="fill the store with prepared volumes and images",
        description="Prepare volumes for training and inference. What is done is skipped; a scan "
        "that cannot be read is reported, listed in STORE/bad_cases.jsonl and skipped. "
        "--dataset NAME prepares a published benchmark (docs/benchmarks.md).",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="a .nii or .nii.gz file, a DICOM folder, an image or video, a folder to search for "
        "volumes, or a .jsonl of questions",
    )
    add_dataset(parser)
    parser.add_argument("--store", default="outputs/data/store", help="default: %(default)s")
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
    parser.add_argument("--workers", type=int, help="processes (default: by cores and memory)")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if any case is bad")
    parser.set_defaults(run=run)
    parser.prepare = _more_flags


def _more_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    from photon.volume.images.preparation import ImagePreparation

    add_fields(parser, ImagePreparation, "images")
    add_reader_fields(parser, words)


def run(args: argparse.Namespace) -> int:
    """Exit code 0 unless all cases were bad, or any with --strict."""
    from photon.volume.preparation import Preparation

    reader = chosen_reader(args, args.inputs)
    changes = {
        key: value[0:1] * 3 if isinstance(value, list) and len(value) == 1 else value
        for key in (
            *("orientation", "spacing", "crop", "size", "hu", "antialias", "nan"),
            "assume_orientation",
        )
        if (value := getattr(args, key)) is not None
    }
    preparation = Preparation.preset(args.preset, **changes, images=given(args, "images"))
    if reader is not None:
        from photon.benchmarks.using import prepare_benchmark

        outcome = prepare_benchmark(reader, args.store, preparation, args.split, args.workers)
    else:
        from photon.questions.fill_store import prepare_all

        outcome = prepare_all(args.inputs, args.store, preparation, args.root, args.workers)
    bad = len(outcome.bad)
    return int(bad > 0 and (args.strict or bad == outcome.cases))
