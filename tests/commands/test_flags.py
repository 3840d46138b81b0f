"""Flags made from the fields of a dataclass, and the flags of a benchmark's reader."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest

from photon.commands.cli import build_parser, main
from photon.commands.flags import add_fields, given
from photon.docstrings import arguments


@dataclass(frozen=True)
class Below:
    """Something.

    Args:
        folder: where it lies,
            all of it.
    """

    folder: str = "data"


@dataclass(frozen=True)
class Toy(Below):
    """Something more.

    Attributes:
        seed, share: two numbers at 10 %.
    """

    seed: int = 0
    share: float = 0.5
    form: Literal["choice", "free"] = "choice"
    scan: Literal["CT", "MRI"] | None = "CT"
    languages: Sequence[Literal["en", "zh"]] = ("en", "zh")
    parts: Mapping[str, int] = field(default_factory=dict)


def parsed(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    add_fields(parser, Toy, "toy")
    parser.format_help()
    return given(parser.parse_args(words), "toy")


def test_only_what_was_given_is_set_in_the_type_of_its_field() -> None:
    assert parsed() == {}
    words = ["--toy.seed", "3", "--toy.share=0.25", "--toy.folder", "x", "--toy.form", "free"]
    assert parsed(*words) == {"seed": 3, "share": 0.25, "folder": "x", "form": "free"}
    assert parsed("--toy.scan", "null") == {"scan": None}
    assert parsed("--toy.scan", "MRI") == {"scan": "MRI"}
    assert parsed("--toy.languages", "zh", "en") == {"languages": ["zh", "en"]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--toy.seed", "x"), "invalid int value: 'x'"),
        (("--toy.form", "x"), "choose from"),
        (("--toy.scan", "x"), "choose from"),
        (("--toy.parts", "x"), "unrecognized arguments: --toy.parts"),
    ],
)
def test_wrong_values(words, says, capsys) -> None:
    with pytest.raises(SystemExit):
        parsed(*words)
    assert says in capsys.readouterr().err


def test_help_is_the_docstring_of_the_class_and_those_above_it() -> None:
    helps = arguments(Toy)
    assert helps["folder"] == "where it lies, all of it."
    assert helps["seed"] == helps["share"] == "two numbers at 10 %."


def test_a_reader_brings_its_flags() -> None:
    words = ["check", "--dataset=slake", "--modality", "mr", "--reader.modality", "null"]
    args = build_parser().parse_args(words)
    assert args.modality == "mr" and given(args, "reader") == {"modality": None}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dataset", "slak"], "dataset slak: there is no such benchmark; did you mean 'slake'?"),
        (["--dataset", "slake", "a.jsonl"], "a.jsonl: --dataset slake reads its own files"),
        ([], "check: name files, or a benchmark"),
    ],
)
def test_a_benchmark_or_files(words, says, capsys) -> None:
    assert main(["check", *words]) == 1
    assert says in capsys.readouterr().err


def test_a_flag_of_another_reader_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["check", "--dataset", "rad3d", "--reader.languages", "en"])
    assert "unrecognized arguments: --reader.languages" in capsys.readouterr().err
