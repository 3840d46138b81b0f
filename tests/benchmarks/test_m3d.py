"""M3D: questions and captions of arrays without a header."""

from photon.benchmarks.m3d import M3D
from tests.benchmarks.published import (
    write_csv,
    write_json,
)


def test_m3d_rows_that_contradict_their_letter_are_left_out(tmp_path) -> None:
    header = "Image Path,Text,Question Type,Question,Choice A,Choice B,Choice C,Choice D,Answer"
    row = ["1/a.npy", "", "1", "Plane?", "axial", "coronal", "sagittal", "none"]
    rows = [[*row, "Coronal.", "B"], [*row, "axial", "B"]]
    path = tmp_path / "M3D-VQA" / "M3D_VQA_test.csv"
    write_csv(path, [*header.split(","), "Answer Choice"], rows)
    reading = M3D(str(tmp_path)).read("test")
    assert [r.answer_letter for r in reading.records] == ["B"]
    assert [str(problem).split(": ")[0] for problem in reading.problems] == [f"{path}:3"]
    assert len(M3D(str(tmp_path), form="free").read("test").records) == 2


def test_m3d(tmp_path) -> None:
    header = ["Image Path", "Text", "Question Type", "Question", "Choice A", "Choice B"]
    header += ["Choice C", "Choice D", "Answer", "Answer Choice"]
    row = ["ct/1/Axial.npy", "", "3", "Which organ?", "liver", "lung", "heart", "none"]
    row += ["liver", "A"]
    write_csv(tmp_path / "M3D-VQA" / "M3D_VQA_test.csv", header, [row])
    (choice,) = M3D(str(tmp_path), prompt="official").read("test").records
    assert choice.question == "Which organ? Choices: A. liver B. lung C. heart D. none"
    assert (choice.answer, choice.subtask, choice.volume) == (
        "A. liver", "organ", "M3D/ct/1/Axial.npy")  # fmt: skip
    (free,) = M3D(str(tmp_path), form="free").read("test").records
    assert (free.answer, free.choices) == ("liver", None)
    (tmp_path / "M3D" / "ct").mkdir(parents=True)
    (tmp_path / "M3D" / "ct" / "text.txt").write_text("A liver.\n")
    rows = [{"image": "ct/1.npy", "text": "ct/text.txt"}, {"image": "ct/2.npy", "text": "No."}]
    rows += [{"image": "ct/3.npy", "text": "../secret.txt"}, {"image": "ct/4.npy", "text": "x.txt"}]
    captions = {"train": [], "validation": rows, "test": []}
    write_json(tmp_path / "M3D" / "M3D_Cap_npy" / "M3D_Cap.json", captions)
    reading = M3D(str(tmp_path)).read("val", "reports")
    assert [r.answer for r in reading.records] == ["A liver.", "No."]
    assert reading.counts() == {"path": 1, "file": 1}
