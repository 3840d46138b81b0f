"""Commands on finished runs: `study`, the tables of a sweep; `surrogate`, the sign of Eq. 12-14."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `study` and `surrogate`."""
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
    parser.set_defaults(run=run_study)
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
    parser.set_defaults(run=run_surrogate)


def run_study(args: argparse.Namespace) -> int:
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


def run_surrogate(args: argparse.Namespace) -> int:
    """Measure, print a table, write the JSON; returns 0. Raises InputError on bad input."""
    import json
    from pathlib import Path

    from photon.errors import InputError
    from photon.evaluation.report import collect_provenance, file_hash
    from photon.study.finite_difference import measure, table
    from photon.weights.checkpoints import load_export

    for key in ("volumes", "per_volume", "tokens"):
        if getattr(args, key) < 1:
            raise InputError(f"--{key.replace('_', '-')} {getattr(args, key)}: give at least 1")
    model = load_export(args.model)
    if model.pruner is None:
        raise InputError(f"{args.model} does not prune: give an export of a model that does")
    path = Path(args.questions)
    root = Path(args.root) if args.root else path.parent
    sizes = {key: getattr(args, key) for key in ("volumes", "per_volume", "tokens")}
    found = measure(model, path, root, args.store, **sizes)
    print("\n".join(table(found)))
    if args.out:
        provenance = collect_provenance(data_hash=file_hash(path), model=args.model, **sizes)
        text = json.dumps({**found, "provenance": provenance}, indent=2) + "\n"
        Path(args.out).write_text(text, encoding="utf-8")
    return 0
