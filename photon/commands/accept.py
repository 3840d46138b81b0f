"""The command `accept`: say that the files of an export are meant to be as they are."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `accept`."""
    parser = subparsers.add_parser(
        "accept",
        help="accept an export whose files were changed on purpose",
        description="An export loads only where its files are those of its manifest. This writes "
        "the manifest anew, once the export has been read: weights that fit and are finite.",
    )
    parser.add_argument("folder", help="an export folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the manifest and print what differed; returns 0. Raises InputError on damage."""
    from pathlib import Path

    from photon.weights.checkpoints import load_export
    from photon.weights.manifest import changes, write_manifest

    folder = Path(args.folder)
    load_export(folder, device="cpu", edited=True)
    for name, how in changes(folder).items():
        print(f"{name}: {how}")
    write_manifest(folder)
    print(f"{folder}: accepted as it is")
    return 0
