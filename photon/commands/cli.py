"""`python -m photon COMMAND ...`: parse, dispatch, turn user errors into one line and exit code 1.

A command is a file beside this one with `add_parser(subparsers)`, which adds its parser and ends
with `parser.set_defaults(run=function)`; `function(args)` returns the exit code. Such a file
imports nothing heavy at its top, so that `--help` answers at once. Its name goes into `MODULES`;
two lie in tasks/, since they read configurations: they are named here and never imported.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from photon.commands.flags import CommandParser
from photon.errors import InputError

MODULES = (
    "photon.commands.prepare",
    "photon.commands.check",
    "photon.commands.questions",
    "photon.commands.convert",
    "photon.commands.accept",
    "photon.commands.study",
    "photon.commands.surrogate",
    "photon.commands.ask",
    "tasks.view",
    "tasks.bench",
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m photon",
        description="Photon: questions about 3D medical volumes, with token pruning.",
    )
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    for module in MODULES:
        import_module(module).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (1 for user errors, 130 when interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files may be bytes that are not text
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            args = build_parser().parse_args(argv)
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
        except (OSError, MemoryError) as error:
            where = getattr(error, "filename", None) or args.command
            told = getattr(error, "strerror", None) or str(error) or "not enough memory"
            print(f"error: {where}: {told}. Check path, permissions and space.", file=sys.stderr)
            return 1


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"warning: {message}", file=file or sys.stderr)
