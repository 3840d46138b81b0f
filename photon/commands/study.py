"""`python -m photon study`: tables and figures of a sweep."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `study`."""
    parser = subparsers.add_parser(
        "study",
        help="tables and figures of a sweep, compared question by question",
        description="Read every finished run below a folder and write study.md, study.json and "
        "figures there: means over seeds with 95 % intervals, differences from a reference.",
    )
    parser.add_argument("folder", help="folder of a sweep, as outputs/phantom_study/direction")
    parser.add_argument("--reference", help="variant to compare with (default: the sweep's first)")
    parser.add_argument(
        "--by", metavar="KEY", help="accuracy by subtask, kind, organ or stratum as well"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap (%(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report and print it; returns 0. Raises InputError without a finished run."""
    from photon.errors import InputError
    from photon.study.report import write_study
    from photon.study.runs import read_study

    if args.resamples < 1:
        raise InputError(f"--resamples {args.resamples}: give at least 1")
    path = write_study(read_study(args.folder, args.reference), args.resamples, args.by)
    print(path.read_text())
    print(f"{path} (study.json, figures/ beside it)")
    return 0
