"""`python -m photon check`: verify question files and the volumes that they name."""

import argparse

from photon.commands.dataset import add_dataset, add_reader_fields, chosen_reader


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `check`."""
    parser = subparsers.add_parser(
        "check",
        help="verify a dataset; all errors are collected",
        description="Verify question files and the volumes they name: lines, ids, answers, patient "
        "overlap between the files, readable volumes, plausible HU, label maps on the scan's grid. "
        "--dataset NAME checks a published benchmark (docs/benchmarks.md). Exit code 1 if there is "
        "any error.",
    )
    parser.add_argument("inputs", nargs="*", metavar="FILE", help=".jsonl, one file is one split")
    add_dataset(parser)
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
    parser.set_defaults(run=run)
    parser.prepare = add_reader_fields


def run(args: argparse.Namespace) -> int:
    """Exit code 1 if there is any error."""
    from photon.questions.check_files import check_dataset, print_report, write_report

    if (reader := chosen_reader(args, args.inputs)) is not None:
        from photon.benchmarks.using import check_benchmark

        volumes = not args.no_volumes
        report = check_benchmark(reader, args.split, volumes, args.workers, args.modality)
    else:
        report = check_dataset(
            args.inputs,
            root=args.root,
            modality=args.modality,
            splits=not args.same_split,
            volumes=not args.no_volumes,
            assume_orientation=args.assume_orientation,
            workers=args.workers,
        )
    if args.report:
        write_report(report, args.report)
    return print_report(report)
