"""Files that appear whole or not at all, the lock, and the help with misspelt words."""

import errno
import os
import threading

import pytest

from photon.errors import InputError, did_you_mean
from photon.files import WriteError, locked, replacing, write_json, write_text


def test_the_new_file_takes_its_name_when_it_is_whole(tmp_path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old\n")
    with replacing(path) as new:
        new.write_text("ne")
        assert path.read_text() == "old\n"
        new.write_text("new\n")
    assert path.read_text() == "new\n"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), ValueError()])
def test_a_fault_leaves_the_file_as_it_was(tmp_path, fault) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(WriteError if isinstance(fault, OSError) else ValueError) as caught:
        with replacing(path) as new:
            new.write_text("half")
            raise fault
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    if isinstance(fault, OSError):
        assert isinstance(caught.value, InputError)
        assert f"{path}: cannot be written (No space left on device)" in str(caught.value)


def test_files_have_the_usual_permissions(tmp_path) -> None:
    write_text(tmp_path / "ours", "")
    (tmp_path / "theirs").write_text("")
    modes = {os.stat(tmp_path / name).st_mode for name in ("ours", "theirs")}
    assert len(modes) == 1


def test_json_refuses_what_no_reader_takes(tmp_path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_one_holder_at_a_time(tmp_path) -> None:
    order = []

    def second() -> None:
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_misspelt_word() -> None:
    assert did_you_mean("orientaton", ["orientation", "size"]) == "; did you mean 'orientation'?"
    assert did_you_mean("x", ["orientation", "size"]) == "; legal: orientation, size"
    assert did_you_mean("x", [f"word {n}" for n in range(20)]) == ""
