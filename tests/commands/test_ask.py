"""`python -m photon ask`: one question, and a dialogue through a pipe, on real files."""

import io
import re

import nibabel as nib
import numpy as np
import pytest

from photon.commands.cli import main
from photon.model.dialogue import Dialogue
from photon.volume.store import VolumeStore
from photon.weights.checkpoints import load_export, save_export
from tests.model.test_dialogue import ASKED, SIZE, small_model

KEPT = r"kept \d+ of 32 visual tokens \(\d+%\)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export and two scans."""
    folder = tmp_path_factory.mktemp("ask")
    save_export(small_model(), folder / "export")
    for seed, name in enumerate(("now", "before")):
        voxels = np.random.default_rng(seed).integers(-900, 900, SIZE[::-1]).astype(np.int16)
        image = nib.Nifti1Image(voxels, np.diag([3.0, 3.0, 3.0, 1.0]))
        nib.save(image, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def ask(folder, monkeypatch, capsys):
    """ask(*words, typed="") -> (exit code, standard output, standard error)"""
    monkeypatch.chdir(folder)

    def call(*words, typed=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        where = ("--model", "export", "--store", "store", "--max-new-tokens", "4")
        code = main(["ask", "now.nii.gz", *words, *where])
        return code, *capsys.readouterr()

    return call


def expected(folder, questions, scans=("now",), **choice):
    """The turns of a `Dialogue` over the same files."""
    model = load_export(folder / "export")
    store = VolumeStore(folder / "store", model.preparation)
    dialogue = Dialogue(
        model, [store.read(folder / f"{name}.nii.gz") for name in scans], stop_repeats=True
    )
    return [dialogue.ask(question, 4, **choice) for question in questions]


def test_one_question(ask, folder):
    code, out, err = ask(ASKED[0])
    (turn,) = expected(folder, ASKED[:1])
    assert code == 0 and not err
    assert out.startswith(f"{turn.answer}\nkept {turn.generation.kept_tokens[0]} of 32 visual")
    assert (folder / "now_kept.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("flags, choice", [((), {}), (("--num-beams", "2"), {"num_beams": 2})])
def test_a_dialogue_through_a_pipe(ask, folder, flags, choice):
    """Empty lines are passed over, and the words that are streamed are the answers."""
    code, out, err = ask(*flags, typed="\n".join([ASKED[0], "", *ASKED[1:]]))
    turns = expected(folder, ASKED, **choice)
    assert code == 0 and not err and out.count("kept") == 3
    said = [part.strip() for part in re.split(KEPT, out)[:-1]]
    assert said == [turn.answer for turn in turns] and ">" not in out.replace(turns[0].answer, "")
    counts = re.findall(r"kept (\d+) of", out)
    assert counts == [str(turn.generation.kept_tokens[0]) for turn in turns]


def test_two_scans_in_a_dialogue(ask, folder):
    code, out, _ = ask("--earlier", "before.nii.gz", typed="What is new?\n")
    (turn,) = expected(folder, ["What is new?"], ("before", "now"))
    assert code == 0 and f"kept {turn.generation.kept_tokens[0]} of 64 visual tokens" in out


def test_draws_are_repeatable_and_others_with_another_seed(ask):
    flags = ("--temperature", "3", "--top-p", "0.99", "--seed")
    drawn = [ask(*flags, seed, typed=ASKED[0])[1] for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--top-p", "0.9"], "--top-p is about draws: give --temperature"),
        (["--seed", "1"], "--seed is about draws"),
        (["--temperature", "0"], "--temperature 0.0: must be above 0"),
        (["--temperature", "1", "--top-p", "2"], "--top-p 2.0: legal values are in (0, 1]"),
        (["--temperature", "1", "--num-beams", "2"], "give one of them"),
        (["--num-beams", "0"], "--num-beams 0: give 1"),
    ],
)
def test_flags_at_odds_are_one_message(ask, flags, told):
    code, out, err = ask(ASKED[0], *flags)
    assert code == 1 and not out and err.count("\n") == 1 and told in err


def test_a_picture_needs_a_question(ask):
    code, _, err = ask("--picture", "a.png")
    assert code == 1 and "--picture" in err


def test_a_terminal_is_asked_with_a_sign(folder, monkeypatch, capsys):
    from photon.commands.ask import lines

    typed = io.StringIO("a\n\nb\n")
    typed.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", typed)
    assert list(lines()) == ["a", "b"] and capsys.readouterr().out == "> > > > "
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nExit\nb\n"))
    assert list(lines()) == ["a"]
