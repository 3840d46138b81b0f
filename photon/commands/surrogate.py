"""`python -m photon surrogate`: the sign of Eq. 12-14, measured on a trained model."""

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `surrogate`."""
    parser = subparsers.add_parser(
        "surrogate",
        help="measure the surrogate's directions against the true change of the loss",
        description="Drop and shrink single tokens of a trained model and compare the change of "
        "the answer loss with what Eq. 12-17 say (docs/surrogate_sign.md).",
    )
    parser.add_argument("model", help="an export folder of a model that prunes")
    parser.add_argument("questions", help="a JSONL file of questions with answers")
    parser.add_argument("--root", help="folder of the paths in it (default: the file's own)")
    parser.add_argument("--store", default="outputs/data/store", help="default: %(default)s")
    parser.add_argument("--volumes", type=int, default=16, help="first so many (%(default)s)")
    parser.add_argument("--per-volume", type=int, default=4, help="questions (%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="tried a question (%(default)s)")
    parser.add_argument("--out", metavar="JSON", help="write the numbers to a file as well")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write the JSON; returns 0. Raises InputError on bad input."""
    from pathlib import Path

    from photon.errors import InputError
    from photon.evaluation.provenance import collect_provenance, file_hash
    from photon.files import write_json
    from photon.study.finite_difference import measure, table
    from photon.weights.checkpoints import load_export

    for key in ("volumes", "per_volume", "tokens"):
        if getattr(args, key) < 1:
            raise InputError(f"--{key.replace('_', '-')} {getattr(args, key)}: give at least 1")
    model = load_export(args.model, dtype="float32", device="cpu")
    if model.pruner is None:
        raise InputError(f"{args.model} does not prune: give an export of a model that does")
    path = Path(args.questions)
    root = Path(args.root) if args.root else path.parent
    sizes = {key: getattr(args, key) for key in ("volumes", "per_volume", "tokens")}
    found = measure(model, path, root, args.store, **sizes)
    print("\n".join(table(found)))
    if args.out:
        provenance = collect_provenance(data_hash=file_hash(path), model=args.model, **sizes)
        write_json(args.out, {**found, "provenance": provenance})
    return 0
