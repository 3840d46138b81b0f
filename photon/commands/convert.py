"""The command `export`: an export in another precision, for shipping or for serving."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `export`."""
    parser = subparsers.add_parser(
        "export",
        help="write an export in another precision",
        description="Copy an export/ folder, its backbone converted to another precision. The "
        "folder loads in stock Transformers as well.",
    )
    parser.add_argument("source", help="an export folder that training wrote")
    parser.add_argument("target", help="folder to write")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--no-pruner", action="store_true", help="leave the pruner out")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the copy and print its size; returns 0. Raises InputError on a damaged source."""
    from pathlib import Path

    import torch

    from photon.weights.checkpoints import load_export, save_export
    from photon.weights.manifest import read_spec

    model = load_export(args.source, dtype="auto", device="cpu")
    if args.no_pruner:
        model.pruner = None
    spec = read_spec(Path(args.source)) or {}  # a checkpoint of the authors' has none
    save_export(model, args.target, spec.get("provenance"), getattr(torch, args.dtype))
    size = sum(file.stat().st_size for file in Path(args.target).iterdir())
    print(f"{args.target}: {size / 1e6:.1f} MB, backbone in {args.dtype}")
    return 0
