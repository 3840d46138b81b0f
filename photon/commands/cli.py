"""`python -m photon COMMAND ...`: parse, dispatch, turn user errors into one line and exit code 1.

A command lives near its subject, in a module with a function `add_parser(subparsers)` that adds one
or more parsers and ends each with `parser.set_defaults(run=function)`; `function(args)` returns the
exit code. Such a module imports nothing heavy at its top, so that `--help` answers at once. To add
commands, add the module to `MODULES`. One of them lies in tasks/, since it composes a
configuration: it is named there and never imported by photon/.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from photon.errors import InputError

MODULES = (
    "photon.commands.volumes",
    "photon.commands.questions",
    "photon.commands.convert",
    "photon.commands.study",
    "photon.commands.ask",
    "tasks.bench",
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m photon",
        description="Photon: questions about 3D medical volumes, with token pruning.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in MODULES:
        import_module(module).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (1 for user errors, 130 when interrupted)."""
    args = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return args.run(args)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted; what was finished is kept", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of a pipe has left; nothing more to say to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"warning: {message}", file=file or sys.stderr)
