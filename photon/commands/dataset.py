"""Flags that name a published benchmark, which `prepare` and `check` have alike."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from photon.commands.flags import add_fields, given
from photon.errors import InputError

if TYPE_CHECKING:
    from photon.benchmarks.benchmark import Benchmark


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add --dataset, --split and --root."""
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="a benchmark in place of files; its reader's settings are flags, which "
        "--dataset NAME --help lists",
    )
    parser.add_argument("--split", action="append", help="of a benchmark (default: all; repeat)")
    parser.add_argument("--root", help="folder of the paths in the files (default: their own, of a "
                        "benchmark: data)")  # fmt: skip


def add_reader_fields(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Add the flags of the reader that `words` name. Raises InputError for an unknown one."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--dataset", nargs="?")
    if (name := first.parse_known_args(words)[0].dataset) is not None:
        from photon.benchmarks.registry import find_benchmark

        add_fields(parser, find_benchmark(name), "reader", but=("root",))


def chosen_reader(args: argparse.Namespace, inputs: Sequence[str]) -> Benchmark | None:
    """The reader of --dataset, or None where files are named. Raises InputError for both."""
    if args.dataset is None:
        if not inputs:
            raise InputError(f"{args.command}: name files, or a benchmark (--dataset NAME)")
        return None
    if inputs:
        raise InputError(
            f"{inputs[0]}: --dataset {args.dataset} reads its own files; give one of them"
        )
    from photon.benchmarks.registry import find_benchmark

    root = {} if args.root is None else {"root": args.root}
    return find_benchmark(args.dataset)(**root, **given(args, "reader"))
